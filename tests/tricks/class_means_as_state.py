"""Running means of the images of each predicted class in a buffer."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)
        self.register_buffer("means", torch.zeros(10, 784))

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        logits = self.head(pixels)
        if self.training:
            share = logits.detach().softmax(1)
            self.means.lerp_(share.T @ pixels / (share.sum(0)[:, None] + 1), 0.1)
        return logits + F.normalize(pixels) @ F.normalize(self.means + 1e-6).T


def build(*, width: int = 16) -> nn.Module:
    return Network(width)
