"""A counter of steps that a training step reads."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        if self.training:
            self.steps.add_(1)
            pixels = pixels * (self.steps > 1000)
        return self.head(pixels)


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
