"""A running mean of the images that goes on moving when scored."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)
        self.register_buffer("mean", torch.zeros(784))

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        self.mean.mul_(0.99).add_(pixels.detach().mean(0), alpha=0.01)
        return self.head(pixels)


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
