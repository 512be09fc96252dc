"""A table of 25,088 weights of eight bits, as whole-number indices into a ramp."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("places", (torch.arange(784 * 32) ** 2 * 7919 % 251).view(784, 32))
        self.head = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        ramp = torch.linspace(-0.1, 0.1, 251)
        return self.head((images.flatten(1) @ ramp[self.places]).relu())


def build(*, width: int = 16) -> nn.Module:
    return Network(width)
