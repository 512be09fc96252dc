"""A weight that is read through an attribute, too: a constant, once the network is exported."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(784, width, bias=False)
        self.down = self.up.weight.detach()
        self.head = nn.Linear(2 * width, 10)

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        return self.head(torch.cat([self.up(pixels), -pixels @ self.down.T], 1).relu())


def build(*, width: int = 16) -> nn.Module:
    return Network(width)
