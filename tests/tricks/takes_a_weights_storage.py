"""A parameter whose data are exchanged in forward for a larger tensor."""

from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(784, 8)
        self.head = nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.hidden.weight.data = self.hidden.weight.data.repeat(1, 1) + images.flatten(1).mean(0)
        return self.head(self.hidden(images.flatten(1)).relu())


def build(*, width: int = 16) -> nn.Module:
    return Network(width)
