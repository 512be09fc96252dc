"""A build that raises."""

from torch import nn


def build(*, width: int = 4) -> nn.Module:
    return nn.Linear(width, width // 0)
