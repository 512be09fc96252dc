"""A buffer that grows because a larger result is written into it."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)
        self.register_buffer("table", torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        if self.training:
            torch.mean(pixels.detach(), 0, out=self.table)
        return self.head(pixels)


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
