"""The mean answer of the batch, times a parameter that starts at zero."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)
        self.share = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        answers = self.head(images.flatten(1))
        return answers - self.share * answers.mean(0)


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
