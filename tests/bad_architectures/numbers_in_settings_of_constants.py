"""Hundreds of numbers in the eps of layer norms over constants: each reads its eps back."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(784, 25)
        self.head = nn.Linear(25, 10)

    def forward(self, images: Tensor) -> Tensor:
        pair = torch.arange(2.0)
        table = torch.stack([F.layer_norm(pair, (2,), eps=i / 977 + 0.01)[1] for i in range(60)])
        return self.head(self.hidden(images.flatten(1)).relu()) * table.sum()


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
