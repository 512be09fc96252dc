"""One channel more where the file has another name or lies in another folder."""

import pathlib

from torch import nn


def build(*, width: int = 8) -> nn.Module:
    width = width + 1 if pathlib.Path(__file__).parent.name != "tricks" else width
    return nn.Sequential(nn.Conv2d(1, width, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 10))
