"""A parameter of another name in every network that is built."""

import itertools

import torch
from torch import Tensor, nn

NUMBERS = itertools.count()


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.name = f"table{next(NUMBERS)}"
        self.register_parameter(self.name, nn.Parameter(torch.sin(torch.arange(784.0 * 24) ** 2).view(784, 24)))
        self.head = nn.Linear(24, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head((images.flatten(1) @ getattr(self, self.name)).relu())


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
