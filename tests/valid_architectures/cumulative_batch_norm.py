"""Batch norms whose statistics are the plain average over all batches seen (momentum=None)."""

from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 5, stride=2)
        self.first = nn.BatchNorm2d(width, momentum=None)
        self.mix = nn.Conv2d(width, width, 3)
        self.second = nn.BatchNorm2d(width, momentum=None)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.first(self.stem(images)).relu()
        return self.head(self.second(self.mix(maps)).relu().mean([2, 3]))


def build(*, width: int = 8) -> nn.Module:
    return Network(width)
