"""A residual branch behind a gain that starts at zero."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 5, stride=2)
        self.branch = nn.Conv2d(width, width, 3, padding=1)
        self.gain = nn.Parameter(torch.zeros(1))
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images).relu()
        return self.head((maps + self.gain * self.branch(maps)).relu().mean([2, 3]))


def build(*, width: int = 8) -> nn.Module:
    return Network(width)
