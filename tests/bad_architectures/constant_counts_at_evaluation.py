"""A plain tensor attribute that counts calls, and another answer after a thousand."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)
        self.calls = torch.zeros(1)

    def forward(self, images: Tensor) -> Tensor:
        self.calls.add_(1)
        return self.head(images.flatten(1)) + (self.calls > 1000)


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
