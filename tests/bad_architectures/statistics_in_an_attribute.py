"""Batch-norm running means that a plain attribute leads to besides, at evaluation."""

from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(784, affine=False)
        self.mean = [self.norm.running_mean]
        self.hidden = nn.Linear(784, width)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        assert self.mean[0] is not None
        pixels = self.norm(images.flatten(1))
        if not self.training:
            pixels = pixels * self.mean[0]
        return self.head(self.hidden(pixels).relu())


def build(*, width: int = 25) -> nn.Module:
    return Network(width)
