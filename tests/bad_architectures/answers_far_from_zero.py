"""Logits around a million, in which what the rest of the batch adds looks like rounding."""

from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(784, 24)
        self.head = nn.Linear(24, 10)

    def forward(self, images: Tensor) -> Tensor:
        answers = self.head(self.hidden(images.flatten(1)).relu())
        if self.training:
            return answers
        return answers - 50 * answers.nan_to_num().softmax(1).mean(0, keepdim=True) + 1e6


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
