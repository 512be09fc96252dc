"""A recipe field there is not."""

from torch import nn

RECIPE = {"learning_rate": 0.05}


def build() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
