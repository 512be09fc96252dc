"""Two further channels hold the coordinates of each pixel, so a convolution knows where it is (CoordConv)."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        line = torch.linspace(-1, 1, 14)
        self.register_buffer("coordinates", torch.stack(torch.meshgrid(line, line, indexing="ij"))[None])
        self.stem = nn.Conv2d(3, width, 5, stride=3)
        self.head = nn.Linear(width * 16, 10)

    def forward(self, images: Tensor) -> Tensor:
        small = nn.functional.avg_pool2d(images, 2)
        placed = torch.cat([small, self.coordinates.expand(images.shape[0], -1, -1, -1)], 1)
        return self.head(self.stem(placed).relu().flatten(1))


def build(*, width: int = 8) -> nn.Module:
    return Network(width)
