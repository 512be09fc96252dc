"""Sinusoidal positions computed with numpy, kept as a buffer that is not saved."""

import numpy as np
import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        angle = np.arange(14)[:, None] / 10_000 ** (np.arange(width)[None] // 2 * 2 / width)
        table = np.where(np.arange(width) % 2, np.cos(angle), np.sin(angle))
        self.register_buffer("positions", torch.from_numpy(table.astype(np.float32)), persistent=False)
        self.embed = nn.Linear(14, width)
        self.read = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        states, _ = self.read(self.embed(nn.functional.avg_pool2d(images, 2).squeeze(1)) + self.positions)
        return self.head(states[:, -1])


def build(*, width: int = 12) -> nn.Module:
    return Network(width)
