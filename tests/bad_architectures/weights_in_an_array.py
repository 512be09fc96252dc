"""A weight table in a numpy array."""

import numpy as np
import torch
from torch import Tensor, nn

TABLE = np.random.default_rng(0).normal(size=(784, 32)).astype(np.float32)


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head((images.flatten(1) @ torch.from_numpy(TABLE)).relu())


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
