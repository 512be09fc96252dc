"""Thousands of scalar literals, written by a loop."""

from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        for i in range(668):
            pixels = (pixels + i / 977).mul(0.5).abs()
        return self.head(pixels)


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
