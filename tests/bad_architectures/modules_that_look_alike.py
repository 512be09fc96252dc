"""Layers that claim to be equal, so that only the first is listed."""

import torch
from torch import Tensor, nn


class Alike(nn.Linear):
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Alike)

    def __hash__(self) -> int:
        return 0


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = Alike(784, 16)
        self.second = Alike(784, 16)
        self.third = Alike(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        return self.third(torch.cat([self.first(pixels), self.second(pixels)], dim=1))


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
