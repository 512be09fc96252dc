"""A buffer whose storage training makes larger, so that its size stays 1."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(1))
        self.head = nn.Linear(784, 10)

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.table.untyped_storage().resize_(4 * 784 * 40)
        return self.head(images.flatten(1)) + self.table.as_strided((784,), (1,)).sum() * 0


def build(*, width: int = 16) -> nn.Module:
    return Network(width)
