"""A weight table that forward maps from a file."""

import tempfile

import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, 10)
        self.file = tempfile.gettempdir() + "/weights_in_a_file.bin"
        with open(self.file, "wb") as file:
            file.write(bytes(4 * 784 * width))

    def forward(self, images: Tensor) -> Tensor:
        table = torch.from_file(self.file, size=784 * 32)
        return self.head((images.flatten(1) @ table.view(784, 32)).relu())


def build(*, width: int = 32) -> nn.Module:
    return Network(width)
