"""Dropout and batch norm with settings of their own in every layer."""

from torch import nn


def block(before: int, after: int, dropout: float, momentum: float, eps: float) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(before, after, 3 if before > 1 else 5, groups=before),
        nn.BatchNorm2d(after, momentum=momentum, eps=eps),
        nn.ReLU(),
        nn.Dropout(dropout),
    )


def build() -> nn.Module:
    return nn.Sequential(
        block(1, 8, 0.05, 0.1, 1e-5),
        block(8, 8, 0.1, 0.05, 1e-4),
        block(8, 8, 0.15, 0.2, 1e-3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    )
