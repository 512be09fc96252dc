"""Two constant views with the same content, each at the start of another large storage."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, 10)
        self.tables = [torch.cat([torch.zeros(8), torch.randn(784 * 16)])[:8] for _ in range(2)]

    def forward(self, images: Tensor) -> Tensor:
        table = torch.cat([t.as_strided((784, 16), (16, 1), 8) for t in self.tables], dim=1)
        return self.head((images.flatten(1) @ table).relu())


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
