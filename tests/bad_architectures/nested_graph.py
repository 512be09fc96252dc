"""torch.cond: two graphs inside the graph."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        return self.head(torch.cond(pixels.sum() > 0, torch.sin, torch.cos, (pixels,)))


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
