"""A buffer of one number that training resizes to 31,360."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(1))
        self.head = nn.Linear(784, 10)

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.table.resize_(40, 784).copy_(images.flatten(1)[:1].expand(40, 784))
        return self.head(images.flatten(1)) + self.table.sum() * 0


def build(*, width: int = 16) -> nn.Module:
    return Network(width)
