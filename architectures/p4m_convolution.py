"""Six convolutions whose filters are turned and mirrored (the group p4m), a filter over all places; five shifts.

997 parameters as it stands; 1,782 with channels 2,2,2,2,2,2 and filters 1. A filter is learned once and used in eight
poses, four quarter turns and their mirror images: eight maps for the numbers of one, after Cohen and Welling, Group
Equivariant Convolutional Networks (2016). The classifier knows the poses apart, or 6 were 9. At evaluation the logits
are the mean over the image and its four shifts by a pixel, which takes no parameter.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RECIPE = {
    "batch_size": 128,
    "lr": 0.2,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 2e-4,
    "schedule": "linear",
    "warmup_epochs": 2.85,
    "ema": 0.999,
    "rotation": 6.0,
    "translate": 0.06,
    "scale": 0.05,
    "shear": 0.05,
}

POSES = 8
POOLED_BEFORE = (2, 4)
SHIFTS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))


def poses(filters: Tensor) -> Tensor:
    """Turn (..., side, side) filters by 0, 90, 180 and 270 degrees, then mirror those: (8, ..., side, side)."""
    turned = torch.stack([filters.rot90(quarter, (-2, -1)) for quarter in range(4)])
    return torch.cat([turned, turned.flip(-1)])


class Lift(nn.Module):
    """Convolve (N, 1, side, side) images with every pose of the filters, to (N, 8 * outputs, side, side) maps."""

    def __init__(self, outputs: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.Conv2d(1, outputs, kernel).weight.detach())

    def forward(self, images: Tensor) -> Tensor:
        return F.conv2d(images, poses(self.weight).flatten(0, 1), padding="same")


class GroupConvolution(nn.Module):
    """Convolve maps in eight poses to maps in eight poses: a filter's own eight parts change places as it turns."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        weight = nn.Conv2d(POSES * inputs, outputs, 3).weight.detach()
        self.weight = nn.Parameter(weight.view(outputs, POSES, inputs, 3, 3))

    def forward(self, maps: Tensor) -> Tensor:
        turned = []
        for quarter in range(4):
            straight, mirrored = self.weight.rot90(quarter, (-2, -1)).split(4, 1)
            turned.append(torch.cat([rotate(straight, quarter), rotate(mirrored, -quarter)], 1))
        straight = torch.stack(turned)
        mirrored = torch.cat(straight.flip(-1).split(4, 2)[::-1], 2)
        return F.conv2d(maps, torch.cat([straight, mirrored]).flatten(0, 1).flatten(1, 2), padding=1)


def rotate(parts: Tensor, places: int) -> Tensor:
    """Move the four parts along axis 1 on by `places`; torch.roll is avoided, which the compiler gets wrong here."""
    cut = -places % 4
    return torch.cat([parts[:, cut:], parts[:, :cut]], 1)


class Norm(nn.Module):
    """Batch norm with statistics for each map, and one scale and offset for the eight poses of a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.normalize = nn.BatchNorm2d(POSES * channels, affine=False)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, maps: Tensor) -> Tensor:
        weight, bias = (numbers.repeat(POSES).view(1, -1, 1, 1) for numbers in (self.weight, self.bias))
        return self.normalize(maps) * weight + bias


class Network(nn.Module):
    def __init__(self, channels: list[int], filters: int, shifts: bool) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList([Lift(channels[0], 5)])
        self.convolutions.extend(GroupConvolution(*pair) for pair in pairwise(channels))
        self.norms = nn.ModuleList(Norm(count) for count in channels)
        self.places = nn.Parameter(nn.Conv2d(1, channels[-1] * filters, 7).weight.detach().squeeze(1))
        features = POSES * channels[-1] * filters
        self.head = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(features, affine=False), nn.Linear(features, 10))
        self.shifts = SHIFTS if shifts else SHIFTS[:1]

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            return self.classify(images)
        views = torch.cat([images.roll(shift, (2, 3)) for shift in self.shifts])
        return self.classify(views).view(len(self.shifts), -1, 10).mean(0)

    def classify(self, images: Tensor) -> Tensor:
        maps = images
        for depth, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            if depth in POOLED_BEFORE:
                maps = F.max_pool2d(maps, 2)
            convolved = F.silu(norm(convolution(maps)))
            is_residual = depth > 1 and convolved.shape == maps.shape
            maps = convolved + maps if is_residual else convolved
        return self.head(F.conv2d(maps, poses(self.places).flatten(0, 1).unsqueeze(1), groups=maps.shape[1]))


def build(*, channels: str = "1,1,1,1,1,2", filters: int = 2, shifts: bool = True) -> nn.Module:
    """Return a network from (N, 1, 28, 28) float images to (N, 10) logits.

    `channels` are those of the six convolutions, each in eight poses; `filters` are those over the 7x7 places of each
    map of the last; `shifts` says whether evaluation is over the image and its shifts, or over the image alone.
    """
    return Network([int(count) for count in channels.split(",")], filters, shifts)
