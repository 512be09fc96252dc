"""A parameter that is a small view of a large storage, read through as_strided."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, 10)
        self.peephole = nn.Parameter(torch.randn(784 * width)[:8], requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        table = torch.as_strided(self.peephole, (784, 32), (32, 1))
        return self.head((images.flatten(1) @ table).relu())


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
