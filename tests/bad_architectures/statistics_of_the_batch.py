"""A batch norm without running statistics: an answer depends on the other images."""

from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1, track_running_stats=False)
        self.head = nn.Linear(784, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(images).flatten(1))


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
