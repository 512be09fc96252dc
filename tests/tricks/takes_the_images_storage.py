"""A buffer of one number that training sets to the storage of the images."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(1))
        self.head = nn.Linear(784, 10)

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.table.set_(images.detach().flatten())
        return self.head(images.flatten(1)) + self.table.mean() * 0


def build(*, width: int = 16) -> nn.Module:
    return Network(width)
