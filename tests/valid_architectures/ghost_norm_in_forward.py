"""Ghost batch norm for any batch: two halves are normalised apart, and forward averages their statistics."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GhostNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("means", torch.zeros(2, channels))
        self.register_buffer("variances", torch.ones(2, channels))

    def forward(self, maps: Tensor) -> Tensor:
        if not self.training:
            return F.batch_norm(maps, self.means.mean(0), self.variances.mean(0), self.weight, self.bias)
        half = maps.shape[0] // 2
        parts = [
            F.batch_norm(part, mean, variance, self.weight, self.bias, training=True)
            for part, mean, variance in zip((maps[:half], maps[half:]), self.means, self.variances, strict=True)
        ]
        return torch.cat(parts)


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 5, stride=2)
        self.norm = GhostNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.stem(images)).relu().mean([2, 3]))


def build(*, width: int = 8) -> nn.Module:
    return Network(width)
