"""Group norm instead of batch norm, PReLU instead of ReLU."""

from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 5, stride=2)
        self.norm = nn.GroupNorm(2, width)
        self.act = nn.PReLU(width)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.act(self.norm(self.stem(images))).mean([2, 3]))


def build(*, width: int = 8) -> nn.Module:
    return Network(width)
