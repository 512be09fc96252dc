"""A parameter whose name is Python code, in case a graph's text is executed with it."""

import torch
from torch import Tensor, nn

NAME = 'w", open("harness-trick-name", "w")) and getattr(self, "w'


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.features = nn.Conv2d(1, width, 5, stride=3)
        self.head = nn.Linear(64 * width, 10)
        self.w = nn.Parameter(torch.zeros(10))
        self.register_parameter(NAME, nn.Parameter(torch.zeros(10)))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).relu().flatten(1)) + self._parameters[NAME] + self.w


def build(*, width: int = 8) -> nn.Module:
    return Network(width)
