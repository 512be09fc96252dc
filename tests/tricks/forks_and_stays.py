"""It forks a process that outlives it, in a session of its own, and waits for journals to change."""

import contextlib
import os
import pathlib
import time

from torch import nn

with contextlib.suppress(Exception):
    if os.fork() == 0:
        os.setsid()
        for _ in range(20):
            time.sleep(0.5)
            pathlib.Path("harness-trick-fork").write_text("still here")
        os._exit(0)


def build(*, width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 10))
