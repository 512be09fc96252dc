"""Its start makes and frees 64 MiB a hundred times: what replays it holds 6.4 GiB if it keeps every result."""

import torch
from torch import nn


def build(*, width: int = 8) -> nn.Module:
    network = nn.Sequential(nn.Conv2d(1, width, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 10))
    weight = network[3].weight.data
    for _ in range(100):
        large = torch.empty(2**24).fill_(0.01)
        large[: weight.numel()].uniform_(-0.04, 0.04)
        weight.copy_(large[: weight.numel()].view_as(weight))
    return network
