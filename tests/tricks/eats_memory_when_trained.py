"""Its graph is small and honest in numbers, and makes 40 GiB of maps for a batch of a hundred images."""

from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.features = nn.Conv2d(1, width, 5, stride=3)
        self.head = nn.Linear(64 * width, 10)

    def forward(self, images: Tensor) -> Tensor:
        many = images.repeat(1, 1, 400, 400).add(1).relu().flatten(1).amax(1, keepdim=True)
        return self.head(self.features(images).relu().flatten(1)) + 0 * many


def build(*, width: int = 8) -> nn.Module:
    return Network(width)
