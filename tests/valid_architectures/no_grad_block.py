"""A torch.no_grad block, which torch exports as a graph within the graph."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            pixels = images.flatten(1) * 2
        return self.head(pixels * self.head.bias.mean())


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
