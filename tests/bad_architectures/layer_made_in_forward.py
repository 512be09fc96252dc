"""A new, unused linear layer on every call, as a published network had it."""

from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)

    def forward(self, images: Tensor) -> Tensor:
        nn.Linear(784, 10)
        return self.head(images.flatten(1))


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
