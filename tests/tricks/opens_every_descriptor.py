"""It opens files until there are no descriptors left, and starts threads until there are none."""

import contextlib
import threading

from torch import nn

held = []
with contextlib.suppress(OSError):
    while len(held) < 200_000:
        held.append(open("/dev/null"))
with contextlib.suppress(RuntimeError):
    for _ in range(2_000):
        threading.Thread(target=threading.Event().wait, daemon=True).start()


def build(*, width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 10))
