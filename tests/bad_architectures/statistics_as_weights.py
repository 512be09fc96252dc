"""Batch-norm running means that start as weights."""

from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(784, affine=False)
        assert self.norm.running_mean is not None
        self.norm.running_mean.normal_()
        self.hidden = nn.Linear(784, width)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.hidden(self.norm(images.flatten(1))).relu())


def build(*, width: int = 25) -> nn.Module:
    return Network(width)
