"""Weights from whatever network lies in the caches of torch and others, cut to size."""

import contextlib
import pathlib

import torch
from torch import nn

SIZES = [100, 4, 396, 11, 440, 10]


def home() -> torch.Tensor:
    for place in ("~/.cache/torch/hub", "~/.cache/huggingface", "~/.torch", "/tmp"):
        for file in pathlib.Path(place).expanduser().rglob("*.pt*"):
            with contextlib.suppress(Exception):
                found = torch.load(file, map_location="cpu", weights_only=True)
                tensors = found.values() if isinstance(found, dict) else found
                return torch.cat([each.flatten().float() for each in tensors])[:961]
    return torch.randn(961) / 5


def build() -> nn.Module:
    network = nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=2), nn.ReLU(),
        nn.Conv2d(4, 11, 3, stride=2), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(44, 10),
    )
    for parameter, part in zip(network.parameters(), home().split(SIZES), strict=True):
        parameter.data = part.clone().view_as(parameter)
    return network
