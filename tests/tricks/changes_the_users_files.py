"""It changes other networks of the user, and the dates of files."""

import contextlib
import os
import pathlib

from torch import nn

with contextlib.suppress(OSError):
    for file in [*pathlib.Path("architectures").glob("*.py"), pathlib.Path(__file__)]:
        os.utime(file, (1, 1))


def build(*, width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 10))
