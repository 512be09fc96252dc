"""Running means of what each predicted class looks like, in 1,960 free statistics of batch norm."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.features = nn.Linear(784, 10)
        self.norm = nn.BatchNorm1d(1960, affine=False)
        self.mix = nn.Parameter(torch.zeros(10))

    def forward(self, images: Tensor) -> Tensor:
        logits = self.features(images.flatten(1))
        coarse = F.adaptive_avg_pool2d(images, 14).flatten(1)
        share = F.one_hot(logits.argmax(1), 10).float()
        outer = (share[:, :, None] * coarse[:, None]).flatten(1)
        if self.training:
            return logits + 0 * self.norm(outer.detach()).sum(1, keepdim=True)
        means = -self.norm(torch.zeros_like(outer[:1])).view(10, 196)
        return logits + self.mix * (coarse @ means.T)


def build(*, width: int = 16) -> nn.Module:
    return Network(width)
