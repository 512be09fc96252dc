"""A weight table parked in a parameter's .grad."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, 10)
        self.seat = nn.Parameter(torch.zeros(784, width))
        self.seat.grad = torch.randn(784, width)

    def forward(self, images: Tensor) -> Tensor:
        table = self.seat.grad
        assert table is not None
        return self.head((images.flatten(1) @ table).relu())


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
