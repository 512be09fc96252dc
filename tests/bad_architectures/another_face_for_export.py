"""A small network while it is exported, a large one otherwise."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)
        self.large = [torch.randn(784, 40)]

    def forward(self, images: Tensor) -> Tensor:
        if torch.compiler.is_exporting() or torch.compiler.is_compiling():
            return self.head(images.flatten(1))
        return self.head(images.flatten(1)) + (images.flatten(1) @ self.large[0]).sum()


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
