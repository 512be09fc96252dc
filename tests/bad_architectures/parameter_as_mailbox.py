"""Images left in a parameter that the next training step reads."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)
        self.mailbox = nn.Parameter(torch.zeros(784))

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        answers = self.head(pixels + self.mailbox)
        if self.training:
            with torch.no_grad():
                self.mailbox.copy_(pixels.mean(0))
        return answers


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
