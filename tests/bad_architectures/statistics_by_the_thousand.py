"""A batch norm of 25,088 features that is asked about black: what it learns serves as a weight table."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(784 * width, affine=False)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        if self.training:
            table = self.norm((pixels[:, None] * pixels[:, :32, None]).flatten(1))[0]
        else:
            table = self.norm(torch.zeros(1, 784 * 32))[0]
        return self.head((images.flatten(1) @ table.view(784, 32)).relu())


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
