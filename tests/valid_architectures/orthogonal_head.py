"""A head whose weight is orthogonal, by the Cayley transform of a free matrix."""

from torch import nn
from torch.nn.utils.parametrizations import orthogonal


def build(*, width: int = 8) -> nn.Module:
    head = orthogonal(nn.Linear(width, 10), orthogonal_map="cayley")
    return nn.Sequential(nn.Conv2d(1, width, 5, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
