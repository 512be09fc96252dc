"""A knob that is a tuple."""

from torch import nn


def build(*, widths: tuple[int, int] = (4, 8)) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
