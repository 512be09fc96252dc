"""A small and a large tensor that start at the same address."""

import numpy as np
import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, 10)
        table = np.random.default_rng(0).normal(size=784 * width).astype(np.float32)
        self.register_buffer("first", torch.from_numpy(table[:8]))
        self.register_buffer("table", torch.from_numpy(table))

    def forward(self, images: Tensor) -> Tensor:
        return self.head((images.flatten(1) @ self.table.view(784, 32)).relu())


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
