"""An operator of its own, which no graph can look into."""

import torch
from torch import Tensor, nn


@torch.library.custom_op("bad_architectures::hidden", mutates_args=())
def hidden(pixels: Tensor) -> Tensor:
    return pixels @ torch.ones(784, 32)


@hidden.register_fake
def _(pixels: Tensor) -> Tensor:
    return pixels.new_empty(pixels.shape[0], 32)


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.ops.bad_architectures.hidden(images.flatten(1)).relu())


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
