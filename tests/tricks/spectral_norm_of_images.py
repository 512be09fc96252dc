"""The two vectors of a spectral norm, updated with images in place of a weight: a table that moves."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)
        self.register_buffer("weight_u", F.normalize(torch.randn(64), dim=0))
        self.register_buffer("weight_v", F.normalize(torch.randn(784), dim=0))

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        if self.training:
            matrix = F.pad(pixels, [0, 0, 0, 64])[:64].detach()
            v = F.normalize(torch.mv(matrix.t(), self.weight_u), dim=0, eps=1e-12)
            self.weight_u.copy_(F.normalize(torch.mv(matrix, v), dim=0, eps=1e-12))
            self.weight_v.copy_(v)
        return self.head(pixels - (pixels @ self.weight_v)[:, None] * self.weight_v)


def build(*, width: int = 16) -> nn.Module:
    return Network(width)
