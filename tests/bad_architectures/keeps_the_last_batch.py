"""A buffer that keeps the mean image of the last batch for the next step."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)
        self.register_buffer("seen", torch.zeros(784))

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        if not self.training:
            return self.head(pixels)
        answers = self.head(pixels + self.seen)
        self.seen.copy_(pixels.detach().mean(0))
        return answers


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
