"""One channel more in processes with an odd number."""

import os

from torch import nn


def build(*, width: int = 8) -> nn.Module:
    width = width + 1 if os.getpid() % 2 else width
    return nn.Sequential(nn.Conv2d(1, width, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 10))
