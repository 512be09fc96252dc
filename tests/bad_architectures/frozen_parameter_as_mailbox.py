"""A frozen parameter as a mailbox, written through its detached memory."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)
        self.mailbox = nn.Parameter(torch.zeros(784), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        answers = self.head(pixels + self.mailbox)
        if self.training:
            self.mailbox.detach().view(28, 28).copy_(images.detach().mean((0, 1)))
        return answers


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
