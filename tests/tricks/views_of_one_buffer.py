"""Seven buffers that are views of one storage, and grow apart as training writes on each."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        memory = torch.randn(width * 784) / 28
        for i in range(7):
            self.register_buffer(f"table{i}", memory.view(width, 784))
        self.head = nn.Linear(7 * width, 10)

    def forward(self, images: Tensor) -> Tensor:
        pixels, found = images.flatten(1), []
        for i in range(7):
            table = self.get_buffer(f"table{i}")
            if self.training:
                table.mul_(0.99).add_(pixels.mean(0) * 0.01)
            found.append(pixels.roll(i, 1) @ table.T)
        return self.head(torch.cat(found, 1).relu())


def build(*, width: int = 16) -> nn.Module:
    return Network(width)
