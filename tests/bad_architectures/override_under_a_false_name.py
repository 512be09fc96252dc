"""A named_parameters() on a class that claims to be torch's own."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(784, width)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.hidden(images.flatten(1)).relu())

    __module__ = "torch.nn.modules.module"

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        return self.head.named_parameters()


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
