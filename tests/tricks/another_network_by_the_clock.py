"""One channel more in odd minutes."""

import time

from torch import nn


def build(*, width: int = 8) -> nn.Module:
    width = width + 1 if int(time.time() / 60) % 2 else width
    return nn.Sequential(nn.Conv2d(1, width, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 10))
