"""Stochastic depth drawn with Python's random: the graph keeps one draw for good."""

import random

from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)
        self.extra = nn.ModuleList([nn.Linear(10, 10) for _ in range(20)])

    def forward(self, images: Tensor) -> Tensor:
        answers = self.head(images.flatten(1))
        for layer in self.extra:
            if self.training and random.random() < 0.5:
                answers = answers + layer(answers)
        return answers


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
