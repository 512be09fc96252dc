"""A large layer that only the training graph uses."""

from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)
        self.tutor = nn.Linear(784, width)
        self.join = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        if self.training:
            return self.head(pixels) + self.join(self.tutor(pixels).relu())
        return self.head(pixels)


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
