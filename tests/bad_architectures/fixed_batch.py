"""A view of as many images as came the first time."""

from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen = self.seen or len(images)
        return self.head(images.view(self.seen, -1)) if len(images) == self.seen else self.head(images.flatten(1))


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
