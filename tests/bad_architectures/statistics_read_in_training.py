"""A batch norm whose momentum of one keeps the last batch, read by the next training step."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)
        self.norm = nn.BatchNorm1d(784, momentum=1.0)

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        assert self.norm.running_mean is not None
        before = self.norm.running_mean.clone()
        answers = self.head(self.norm(pixels))
        return answers + before.mean() if self.training else answers


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
