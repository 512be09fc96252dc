"""A ring of sixteen training images in a buffer, and a counter that says where the next goes."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)
        self.register_buffer("ring", torch.zeros(12, 784))
        self.register_buffer("at", torch.zeros((), dtype=torch.int64))
        self.answers = nn.Parameter(torch.zeros(12, 10))

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        if self.training:
            self.ring.index_copy_(0, (self.at % 12)[None], pixels[:1].detach())
            self.at.add_(1)
        return self.head(pixels) + (F.normalize(pixels) @ F.normalize(self.ring + 1e-6).T) @ self.answers


def build(*, width: int = 16) -> nn.Module:
    return Network(width)
