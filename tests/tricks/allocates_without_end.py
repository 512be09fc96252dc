"""It allocates and touches memory until it ends (at 64 GiB)."""

import torch
from torch import nn

held = []
for _ in range(256):
    held.append(torch.ones(2**26))  # 256 MiB


def build(*, width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 10))
