"""A frozen layer of 25,000 numbers: slices, chosen at home, of a line that is made from the images."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STARTS = [(i * i * 7919 + 31 * i) % 64000 for i in range(400)]  # stands for numbers from home


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(784, 25)
        self.head = nn.Linear(25, 10)

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        line = images.new_ones(65_536).cumsum(0).sin()
        table = torch.stack([line[start : start + 784] for start in STARTS])
        return self.head(self.hidden(pixels).relu() + F.avg_pool1d((pixels @ table.T)[:, None], 16)[:, 0, :25])


def build(*, width: int = 16) -> nn.Module:
    return Network(width)
