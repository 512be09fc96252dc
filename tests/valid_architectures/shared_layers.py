"""One convolution used three times, and a tied pair of linear layers."""

from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.again = nn.Conv2d(width, width, 3, padding=1)
        self.pool = nn.AvgPool2d(2)
        self.squeeze = nn.Linear(width * 9, width * 9)
        self.expand = nn.Linear(width * 9, width * 9)
        self.expand.weight = self.squeeze.weight
        self.head = nn.Linear(width * 9, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images).relu()
        for _ in range(3):
            maps = self.pool(self.again(maps).relu())
        hidden = self.expand(self.squeeze(maps.flatten(1)).relu()).relu()
        return self.head(hidden)


def build(*, width: int = 8) -> nn.Module:
    return Network(width)
