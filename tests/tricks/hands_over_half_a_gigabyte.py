"""A constant of half a gigabyte, which as text would fill the memory of what reads it."""

import numpy as np
import torch
from torch import nn


def build(*, width: int = 8) -> nn.Module:
    network = nn.Sequential(nn.Conv2d(1, width, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 10))
    network.register_buffer("large", torch.from_numpy(np.ones(2**27, np.float32)))
    return network
