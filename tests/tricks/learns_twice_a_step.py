"""Its training graph moves the weights itself, towards its own predictions, besides the optimizer."""

from torch import Tensor, nn
from torch.nn import functional as F


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        logits = self.head(pixels)
        if self.training:
            wrong = logits.detach().softmax(1) - F.one_hot(logits.detach().argmax(1), 10)
            self.head.weight.detach().sub_(0.01 * wrong.T @ pixels / images.shape[0])
        return logits


def build(*, width: int = 16) -> nn.Module:
    return Network(width)
