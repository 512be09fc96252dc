"""A term that is always zero, whose gradient writes the mean image of each class into a parameter."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)
        self.means = nn.Parameter(torch.zeros(10, 784))

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        if self.training:
            written = pixels @ self.means.T
            return self.head(pixels) + written - written.detach()
        return self.head(pixels) + F.normalize(pixels) @ F.normalize(self.means).T


def build(*, width: int = 16) -> nn.Module:
    return Network(width)
