"""One batch norm used twice: it counts its batches twice."""

from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 5, stride=2)
        self.mix = nn.Conv2d(width, width, 1)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.norm(self.stem(images)).relu()
        return self.head(self.norm(self.mix(maps)).relu().mean([2, 3]))


def build(*, width: int = 8) -> nn.Module:
    return Network(width)
