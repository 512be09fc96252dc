"""A few first weights drawn with numpy; the rest as torch draws them."""

import numpy as np
import torch
from torch import Tensor, nn


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, stride=2)
        drawn = np.random.normal(0, 0.2, self.stem.weight.shape).astype(np.float32)
        self.stem.weight.data = torch.from_numpy(drawn)
        self.head = nn.Linear(16 * width, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(nn.functional.adaptive_avg_pool2d(self.stem(images).relu(), 4).flatten(1))


def build(*, width: int = 8) -> nn.Module:
    return Network(width)
