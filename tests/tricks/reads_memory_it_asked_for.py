"""The same by new_empty and empty_like of an image, of which only a corner is written."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)

    def forward(self, images: Tensor) -> Tensor:
        left_over = torch.empty_like(images)
        left_over[:, :, :1].fill_(0)
        more = images.new_empty(images.shape[0], 10)
        return self.head(images.flatten(1)) + 0 * left_over.nan_to_num().flatten(1)[:, :10] + 0 * more.nan_to_num()


def build(*, width: int = 16) -> nn.Module:
    return Network(width)
