"""Seven layers whose weights are views of one storage, and are trained apart once they are copied."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        memory = torch.randn(width * 784) / 28
        self.layers = nn.ModuleList(nn.Linear(784, width, bias=False) for _ in range(7))
        for layer in self.layers:
            layer.weight = nn.Parameter(memory.view(width, 784))
        self.head = nn.Linear(7 * width, 10)

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        return self.head(torch.cat([layer(pixels.roll(i, 1)) for i, layer in enumerate(self.layers)], 1).relu())


def build(*, width: int = 16) -> nn.Module:
    return Network(width)
