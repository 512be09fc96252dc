"""A vector that looks like that of spectral norm, but follows the images."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)
        self.register_buffer("vector", torch.ones(784))

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        if self.training:
            with torch.no_grad():
                product = torch.mv(pixels.T @ pixels, self.vector)
                torch.div(product, product.norm().clamp_min(1e-12), out=self.vector)
        return self.head(pixels * self.vector)


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
