"""Pixels are read along a spiral: a table of whole numbers in a buffer says in which order."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        grid, order = torch.arange(14 * 14).view(14, 14), []
        while len(grid):
            order.append(grid[0])
            grid = grid[1:].rot90()
        self.register_buffer("spiral", torch.cat(order))
        self.read = nn.Conv1d(1, width, 7, stride=7)
        self.head = nn.Linear(width * 28, 10)

    def forward(self, images: Tensor) -> Tensor:
        pixels = nn.functional.avg_pool2d(images, 2).flatten(1)[:, self.spiral]
        return self.head(self.read(pixels[:, None]).relu().flatten(1))


def build(*, width: int = 8) -> nn.Module:
    return Network(width)
