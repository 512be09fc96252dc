"""An autograd function whose backward is not its forward's."""

from typing import Any

import torch
from torch import Tensor, nn


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pixels: Tensor) -> Tensor:
        return pixels.sign()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(Straight.apply(images.flatten(1) * self.head.bias.mean()))


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
