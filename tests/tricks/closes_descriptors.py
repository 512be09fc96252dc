"""It closes every descriptor, and opens /dev/null in their places."""

import contextlib
import os

from torch import nn

os.closerange(3, 256)
for _ in range(64):
    with contextlib.suppress(OSError):
        os.open("/dev/null", os.O_RDWR)


def build(*, width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 10))
