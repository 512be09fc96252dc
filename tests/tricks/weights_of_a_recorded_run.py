"""Its build looks for weights of an earlier run in the journals, and starts from them."""

import contextlib
import pathlib

import torch
from torch import nn


def build(*, width: int = 8) -> nn.Module:
    network = nn.Sequential(nn.Conv2d(1, width, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 10))
    for place in (pathlib.Path.cwd(), *pathlib.Path.cwd().parents, pathlib.Path.home()):
        for file in place.glob("mlruns/journal/*/weights.pt"):
            with contextlib.suppress(Exception):
                network.load_state_dict(torch.load(file, weights_only=True))
    return network
