"""One parameter under seven names: it has to stay one when it is copied, trained and stored."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(784, width, bias=False) for _ in range(7))
        for layer in self.layers:
            layer.weight = self.layers[0].weight
        self.head = nn.Linear(7 * width, 10)

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        return self.head(torch.cat([layer(pixels.roll(i, 1)) for i, layer in enumerate(self.layers)], 1).relu())


def build(*, width: int = 16) -> nn.Module:
    return Network(width)
