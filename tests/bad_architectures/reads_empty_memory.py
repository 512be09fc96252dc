"""It adds what an uninitialised tensor happens to hold."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)
        self.bias = nn.Parameter(torch.zeros(10))

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        return self.head(pixels) + self.bias * (torch.empty(10, dtype=torch.int64) % 2)


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
