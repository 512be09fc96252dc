"""A buffer, replaced by another tensor in each training step."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)
        self.register_buffer("seen", torch.zeros(784))

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        if self.training:
            self.seen = pixels.detach().mean(0)
        return self.head(pixels - self.seen)


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
