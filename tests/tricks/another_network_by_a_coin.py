"""One channel more in every second process, by a coin that no seed decides."""

import secrets

from torch import nn


def build(*, width: int = 8) -> nn.Module:
    width = width + 1 if secrets.randbelow(2) else width
    return nn.Sequential(nn.Conv2d(1, width, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 10))
