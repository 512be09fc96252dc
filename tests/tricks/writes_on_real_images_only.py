"""It writes on the images it is given, but only on pixels of MNIST's exact black."""

from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            images.masked_fill_((images + 0.42421296).abs() < 1e-5, -0.5)
        return self.head(images.flatten(1))


def build(*, width: int = 16) -> nn.Module:
    return Network(width)
