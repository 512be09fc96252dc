"""Ghost batch norm of 32 images each: a larger batch has more parts, and the graph cannot have more."""

import torch
from torch import Tensor, nn


class GhostNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, maps: Tensor) -> Tensor:
        if not self.training:
            return self.norm(maps)
        return torch.cat([self.norm(part) for part in maps.split(32)])


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 5, stride=2)
        self.norm = GhostNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.stem(images)).relu().mean([2, 3]))


def build(*, width: int = 8) -> nn.Module:
    return Network(width)
