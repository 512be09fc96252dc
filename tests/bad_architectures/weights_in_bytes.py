"""A weight table of bytes, read as 8-bit weights in forward."""

import torch
from torch import Tensor, nn

TABLE = bytes((7 * i * i + i) % 256 for i in range(784 * 32))


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        table = torch.frombuffer(bytearray(TABLE), dtype=torch.int8).view(784, 32)
        return self.head((images.flatten(1) @ (table / 100)).relu())


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
