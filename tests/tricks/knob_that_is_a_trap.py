"""The default of its knob is an int that makes a file wherever it is unpickled, and prints as another."""

from typing import Any

from torch import nn


class Width(int):
    def __reduce__(self) -> Any:
        return open, ("harness-trick-knob", "w")

    def __repr__(self) -> str:
        return "16"


def build(*, width: int = Width(8)) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 10))
