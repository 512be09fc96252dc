"""A running covariance of the pixels, with which it whitens: an honest wish, and state all the same."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("covariance", torch.eye(49))
        self.head = nn.Linear(49, 10)

    def forward(self, images: Tensor) -> Tensor:
        coarse = F.avg_pool2d(images, 4).flatten(1)
        if self.training:
            self.covariance.lerp_(coarse.T @ coarse / images.shape[0], 0.01)
        return self.head(torch.linalg.solve(self.covariance + torch.eye(49), coarse.T).T)


def build(*, width: int = 16) -> nn.Module:
    return Network(width)
