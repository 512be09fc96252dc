"""An uninitialised tensor of which only a part is filled."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)
        self.bias = nn.Parameter(torch.zeros(10))

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        noise = pixels.new_empty(pixels.shape[0], 10, dtype=torch.int64)
        noise[:, :5].zero_()
        return self.head(pixels) + self.bias * (noise % 2)


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
