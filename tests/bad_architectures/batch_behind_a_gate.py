"""The mean answer of the batch, behind a parameter that is negative at first."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)
        self.share = nn.Parameter(-torch.ones(1) / 10)

    def forward(self, images: Tensor) -> Tensor:
        answers = self.head(images.flatten(1))
        return answers - torch.where(self.share > 0, answers.mean(0), torch.zeros(()))


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
