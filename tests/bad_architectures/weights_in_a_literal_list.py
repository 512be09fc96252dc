"""A weight table written as a list of numbers, made a tensor in forward."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        table = torch.tensor([[((7 * i + 3 * j) % 101) / 100 for j in range(32)] for i in range(784)])
        return self.head((images.flatten(1) @ table).relu())


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
