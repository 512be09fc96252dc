"""Each answer is mixed with that of the image before it."""

from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)

    def forward(self, images: Tensor) -> Tensor:
        answers = self.head(images.flatten(1))
        return answers + 0.01 * answers.roll(1, 0)


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
