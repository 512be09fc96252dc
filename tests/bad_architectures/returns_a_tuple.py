"""Answers and hidden values in a tuple."""

from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(images.flatten(1)), images


def build() -> nn.Module:
    return Network()
