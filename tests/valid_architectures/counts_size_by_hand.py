"""A view that spells the batch out, and numbers in the code."""

from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 5, stride=2)
        self.head = nn.Linear(width * 144, 10)

    def forward(self, images: Tensor) -> Tensor:
        batch = images.size(0)
        maps = self.stem((images - 0.5) / 0.3)
        return self.head(nn.functional.leaky_relu(maps, 0.1).view(batch, -1))


def build(*, width: int = 8) -> nn.Module:
    return Network(width)
