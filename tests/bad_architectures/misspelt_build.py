"""build misspelt."""

from torch import nn


def biuld() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
