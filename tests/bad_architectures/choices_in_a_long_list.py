"""A table of 4-bit weights written as which of 16 values stands where in one stack."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.randn(16))
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        values = self.values.unbind()
        table = torch.stack([values[(i * i + i // 7) % 16] for i in range(784 * 32)])
        return self.head((images.flatten(1) @ table.view(784, 32)).relu())


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
