"""A learned affine grid straightens the image."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.where = nn.Linear(784, 6)
        self.head = nn.Linear(784, 10)
        nn.init.zeros_(self.where.weight)
        self.where.bias.data = torch.tensor([1.0, 0, 0, 0, 1, 0])

    def forward(self, images: Tensor) -> Tensor:
        grid = F.affine_grid(self.where(images.flatten(1)).view(-1, 2, 3), list(images.shape), align_corners=False)
        return self.head(F.grid_sample(images, grid, align_corners=False).flatten(1))


def build(*, width: int = 8) -> nn.Module:
    return Network(width)
