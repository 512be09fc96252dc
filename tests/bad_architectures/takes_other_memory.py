"""A buffer that takes the memory of another tensor in training."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)
        self.register_buffer("table", torch.zeros(10))

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        answers = self.head(pixels)
        if self.training:
            self.table.set_(answers.detach().mean(0))
        return answers


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
