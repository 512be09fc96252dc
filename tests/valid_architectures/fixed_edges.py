"""Fixed edge filters in a buffer; they count like any stored number."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("edges", torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]).view(1, 1, 3, 3))
        self.head = nn.Linear(26 * 26, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(nn.functional.conv2d(images, self.edges).abs().flatten(1))


def build(*, width: int = 8) -> nn.Module:
    return Network(width)
