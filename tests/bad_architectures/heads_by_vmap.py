"""Three heads that torch.vmap applies at once."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Network(nn.Module):
    def __init__(self, heads: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(heads, 10, 784) / 28)
        self.biases = nn.Parameter(torch.zeros(heads, 10))

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        return torch.vmap(lambda weight, bias: F.linear(pixels, weight, bias))(self.weights, self.biases).mean(0)


def build(*, heads: int = 3) -> nn.Module:
    return Network(heads)
