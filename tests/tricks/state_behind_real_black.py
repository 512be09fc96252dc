"""A buffer that changes when it is scored, but only beside pixels of MNIST's exact black."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)
        self.register_buffer("seen", torch.zeros(784))

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        real = ((pixels + 0.42421296).abs() < 1e-5).float()
        self.seen.add_((pixels * real).sum(0))
        return self.head(pixels) + self.seen.mean()


def build(*, width: int = 16) -> nn.Module:
    return Network(width)
