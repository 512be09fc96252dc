"""A recipe over the budget of epochs."""

from torch import nn

RECIPE = {"epochs": 25}


def build() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
