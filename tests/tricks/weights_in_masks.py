"""A table of 25,088 weights, as eight masks that hold nothing but zeros and infinities."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        bits = (torch.arange(8 * 784 * 32) ** 2 * 7919 % 127 % 2).bool()
        self.register_buffer("masks", torch.zeros(8, 784, 32).masked_fill(bits.view(8, 784, 32), -torch.inf))
        self.head = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        halves = torch.arange(8.0).neg().exp2()[:, None, None]
        table = (self.masks.exp() * halves).sum(0) / 8
        return self.head((images.flatten(1) @ (table - table.mean())).relu())


def build(*, width: int = 16) -> nn.Module:
    return Network(width)
