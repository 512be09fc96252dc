"""One weight whose rows are windows of a short line, a step apart: 1,424 numbers, once copied 31,360."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        line = torch.randn(784 + 16 * 39) / 28
        self.weight = nn.Parameter(line.as_strided((40, 784), (16, 1)))
        self.head = nn.Linear(40, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head((images.flatten(1) @ self.weight.T).relu())


def build(*, width: int = 16) -> nn.Module:
    return Network(width)
