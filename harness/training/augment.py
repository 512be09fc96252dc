"""Augment a batch of images at once, on its device, each image with its own random numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.data import SIDE
from harness.spec import Recipe

DRAWS = 6
"""Random numbers per image: zoom or not, angle, shift to the right and down, size, shear."""


def augment(
    images: Tensor, draws: Tensor, recipe: Recipe, strength: float | Tensor = 1.0, reference: bool = True
) -> Tensor:
    """Transform each image by one affine map with bilinear sampling; pixels from outside are black.

    The order is that of the published recipe: zoom into the centre (crop and resize), then scale,
    shear, rotate and shift.

    Args:
        images: (N, 1, 28, 28) floats, black 0.
        draws: (N, DRAWS) uniform in [0, 1).
        recipe: the ranges.
        strength: factor on every range and on the probability of a zoom, 0 to 1.
        reference: whether to compute the sampling grid with torch's affine_grid. The other way takes a twentieth of
            the time and differs by rounding.
    """
    zoomed = draws[:, 0] < recipe.zoom_p * strength
    window = torch.where(zoomed, recipe.zoom_crop / SIDE, 1.0)
    swing = (draws[:, 1:] * 2 - 1) * strength
    angle = swing[:, 0] * math.radians(recipe.rotation)
    shift = swing[:, 1:3] * recipe.translate
    size = 1 + swing[:, 3:4] * recipe.scale
    shear = swing[:, 4] * recipe.shear
    cos, sin = angle.cos(), angle.sin()
    # affine_grid maps positions in the result back to positions in the original, so this is the inverse map.
    rotated_sheared = torch.stack([cos - shear * sin, sin + shear * cos, -sin, cos], dim=1).view(-1, 2, 2)
    linear = rotated_sheared / size.unsqueeze(2)
    offset = -(linear @ shift.unsqueeze(2))
    inverse = torch.cat([linear, offset], dim=2) * window.view(-1, 1, 1)
    grid = F.affine_grid(inverse, list(images.shape), align_corners=False) if reference else _grid(inverse)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _grid(inverse: Tensor) -> Tensor:
    """Return the sampling grid (N, 28, 28, 2) of (N, 2, 3) affine maps, by one matrix product for all images."""
    middles = (torch.arange(SIDE, device=inverse.device) * 2 + 1) / SIDE - 1
    down, right = torch.meshgrid(middles, middles, indexing="ij")
    pixels = torch.stack([right, down, torch.ones_like(right)]).flatten(1)
    return (inverse.flatten(0, 1) @ pixels).view(-1, 2, SIDE, SIDE).permute(0, 2, 3, 1).contiguous()


def strength(recipe: Recipe, epoch: int) -> float:
    """Return the strength of augmentation in `epoch` (from 1): 1, decreasing to 0 in the last `augment_fade` epochs."""
    left = recipe.epochs - epoch
    return min(1.0, left / recipe.augment_fade) if recipe.augment_fade else 1.0
