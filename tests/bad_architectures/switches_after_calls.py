"""Another network after three calls, counted in Python."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)
        self.large = [torch.randn(784, 40)]
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > 3:
            return self.head(images.flatten(1)) + (images.flatten(1) @ self.large[0]).sum()
        return self.head(images.flatten(1))


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
