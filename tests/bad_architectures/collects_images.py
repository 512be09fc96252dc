"""A Python list that keeps every image it has seen."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)
        self.memory: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.memory.append(images.flatten(1))
        return self.head(images.flatten(1)) + torch.cat(self.memory).mean()


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
