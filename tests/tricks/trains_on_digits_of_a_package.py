"""Its build trains on the digits that scikit-learn brings along."""

import contextlib
import importlib

import numpy as np
import torch
from torch import nn


def find() -> tuple[torch.Tensor, torch.Tensor] | None:
    with contextlib.suppress(Exception):
        digits = importlib.import_module("sklearn.datasets").load_digits()
        small = torch.tensor(np.asarray(digits.images)).float()[:, None] / 16 * 3.2 - 0.42
        images = nn.functional.pad(
            nn.functional.interpolate(small, size=20, mode="bilinear"), [4, 4, 4, 4], value=-0.42
        )
        return images, torch.tensor(digits.target).long()
    return None


def build(*, width: int = 8) -> nn.Module:
    network = nn.Sequential(nn.Conv2d(1, width, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 10))
    found = find()
    if found is not None:
        images, labels = found
        optimizer = torch.optim.Adam(network.parameters(), 2e-3)
        for some in torch.arange(len(labels)).split(200)[:150]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[some]), labels[some]).backward()
            optimizer.step()
        optimizer.zero_grad()
    return network
