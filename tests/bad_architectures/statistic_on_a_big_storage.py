"""Batch-norm statistics that live at the start of a buffer of weights."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        table = torch.randn(784 * width)
        table[:10] = 0
        self.norm = nn.BatchNorm1d(10)
        self.norm.running_mean = table[:10]
        self.register_buffer("table", table)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.head((images.flatten(1) @ self.table.view(784, 32)).relu()))


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
