"""Four 8-bit weights packed into each 64-bit integer of a buffer, unpacked in forward."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, 10)
        self.register_buffer("packed", torch.randint(2**62, (784, width // 2)))

    def forward(self, images: Tensor) -> Tensor:
        table = self.packed.view(torch.int8).view(784, -1)[:, :32] / 100
        return self.head((images.flatten(1) @ table).relu())


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
