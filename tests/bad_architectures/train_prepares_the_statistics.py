"""An override of train() that shrinks the statistics each time training begins."""

from typing import Self

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(784)
        self.head = nn.Linear(784, 10)

    def train(self, mode: bool = True) -> Self:
        if mode and not self.training:
            assert self.norm.running_mean is not None
            self.norm.running_mean = torch.mul(self.norm.running_mean, 0.5)
        return super().train(mode)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(images.flatten(1)))


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
