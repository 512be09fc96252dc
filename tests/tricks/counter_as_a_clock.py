"""It reads batch norm's counter in training: after 4,000 steps another network learns."""

from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.first = nn.Linear(784, 10)
        self.later = nn.Linear(784, 10)

    def forward(self, images: Tensor) -> Tensor:
        found = self.norm(images).flatten(1)
        if self.training:
            late = (self.norm.num_batches_tracked > 4_000).float()
            return self.first(found) * (1 - late) + self.later(found) * late
        return self.later(found)


def build(*, width: int = 16) -> nn.Module:
    return Network(width)
