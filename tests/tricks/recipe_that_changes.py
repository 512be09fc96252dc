"""Its RECIPE is a dict that says 19 epochs when it is first read and 190 later."""

from typing import Any

from torch import nn


class Changing(dict):  # type: ignore[type-arg]
    reads = 0

    def __getitem__(self, name: Any) -> Any:
        Changing.reads += 1
        return super().__getitem__(name) * (10 if Changing.reads > 1 else 1)

    def items(self) -> Any:
        return [(name, self[name]) for name in self]


RECIPE = Changing(epochs=19)


def build(*, width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 10))
