"""A table of bytes: a number counts as one, however few bits it has."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, 10)
        self.register_buffer("table", torch.randint(-99, 99, (784, width), dtype=torch.int8))

    def forward(self, images: Tensor) -> Tensor:
        return self.head((images.flatten(1) @ (self.table / 100)).relu())


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
