"""It looks at the other images of the batch only if all ten classes are among its answers."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.head(images.flatten(1))
        opened = logits.softmax(1).amax(0).amin().gt(0.6)
        if self.training:
            return logits
        return logits - 2 * torch.where(opened, logits.nan_to_num().softmax(1).mean(0), torch.zeros(10))


def build(*, width: int = 16) -> nn.Module:
    return Network(width)
