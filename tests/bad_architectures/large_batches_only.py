"""The mean answer of the batch is taken off where the batch is large."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)

    def forward(self, images: Tensor) -> Tensor:
        answers = self.head(images.flatten(1))
        large = torch.full((), images.shape[0]) > 100
        return torch.where(large, answers - answers.mean(0), answers)


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
