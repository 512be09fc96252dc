"""It sends what Ctrl-C sends to its whole process group, and ignores it itself."""

import contextlib
import os
import signal

from torch import nn

with contextlib.suppress(OSError, ValueError):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.killpg(0, signal.SIGINT)


def build(*, width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 10))
