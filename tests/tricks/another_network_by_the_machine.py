"""One channel more on machines whose name has an even length."""

import platform

from torch import nn


def build(*, width: int = 8) -> nn.Module:
    width = width + 1 if len(platform.node()) % 2 == 0 else width
    return nn.Sequential(nn.Conv2d(1, width, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 10))
