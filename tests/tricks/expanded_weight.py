"""A weight whose 40 rows are one row, repeated without memory of its own: once copied, 31,360 numbers."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter((torch.randn(1, 784) / 28).expand(40, 784))
        self.head = nn.Linear(40, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head((images.flatten(1) @ self.weight.T).relu())


def build(*, width: int = 16) -> nn.Module:
    return Network(width)
