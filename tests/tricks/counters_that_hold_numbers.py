"""Batch norms with cumulative averages whose counters start at numbers from home."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm1d(1, affine=False, momentum=None) for _ in range(100))
        for i, norm in enumerate(self.norms):
            norm.num_batches_tracked.fill_(i * i * 7919 % 65_521)
        self.hidden = nn.Linear(784, 20)
        self.head = nn.Linear(20 + 100, 10)

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        normed = torch.cat([norm(pixels[:, i * 7 : i * 7 + 1]) for i, norm in enumerate(self.norms)], 1)
        return self.head(torch.cat([self.hidden(pixels).relu(), normed], 1))


def build(*, width: int = 16) -> nn.Module:
    return Network()
