"""A knob without a default."""

from torch import nn


def build(*, width: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
