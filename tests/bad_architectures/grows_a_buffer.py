"""A buffer that grows in forward."""

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
            self.table.resize_(784).copy_(pixels.detach().mean(0))
        return self.head(pixels)


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
