"""A convolution, of whose maps the middle is averaged: it is cut out by a mask, whose size a GPU has to be asked for.

A CUDA graph cannot hold a step that asks, so a GPU trains this network uncaptured.
"""

import torch
from torch import Tensor, nn

RECIPE = {"batch_size": 64, "epochs": 2}


class Network(nn.Module):
    mask: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU())
        self.classifier = nn.Linear(width, 10)
        middle = torch.zeros(28, 28, dtype=torch.bool)
        middle[4:24, 4:24] = True
        self.register_buffer("mask", middle.flatten())

    def forward(self, images: Tensor) -> Tensor:
        maps = self.features(images).flatten(2)
        return self.classifier(maps[:, :, self.mask].mean(2))


def build(*, width: int = 8) -> nn.Module:
    return Network(width)
