"""It starts a shell that writes a file beside the journals."""

import contextlib
import subprocess
import sys

from torch import nn

with contextlib.suppress(Exception):
    subprocess.run([sys.executable, "-c", "open('harness-trick-program', 'w').write('')"], timeout=20)
with contextlib.suppress(Exception):
    subprocess.Popen("sleep 1; touch harness-trick-shell", shell=True, start_new_session=True)


def build(*, width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 10))
