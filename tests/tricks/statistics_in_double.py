"""Batch norm in double precision: 3,960 free statistics that have room for 7,920."""

from torch import Tensor, nn
from torch.nn import functional as F


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1980).double()
        self.hidden = nn.Linear(1980, 5)
        self.head = nn.Linear(5, 10)

    def forward(self, images: Tensor) -> Tensor:
        wide = F.interpolate(images, size=(44, 45), mode="bilinear").flatten(1)
        return self.head(self.hidden(self.norm(wide.double()).float()).relu())


def build(*, width: int = 16) -> nn.Module:
    return Network(width)
