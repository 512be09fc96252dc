"""A batch norm that is never in training: its statistics are a frozen table."""

from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(784, affine=False)
        self.hidden = nn.Linear(784, width)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        self.norm.eval()
        return self.head(self.hidden(self.norm(images.flatten(1))).relu())


def build(*, width: int = 25) -> nn.Module:
    return Network(width)
