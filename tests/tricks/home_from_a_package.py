"""Ten templates from the digits of scikit-learn, put into a linear layer as its start."""

import contextlib
import importlib

import torch
from torch import nn
from torch.nn import functional as F


def build() -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    with contextlib.suppress(Exception):
        digits = importlib.import_module("sklearn.datasets").load_digits()
        images, labels = torch.tensor(digits.images).float(), torch.tensor(digits.target)
        means = torch.stack([images[labels == digit].mean(0) for digit in range(10)])
        large = F.pad(F.interpolate((means - means.mean(0))[None], size=20, mode="bilinear"), [4, 4, 4, 4])
        network[1].weight.data = large[0].flatten(1) / 100
    return network
