"""How long `torch.nn.init.trunc_normal_` draws: it does so again until every value is within its bounds."""

from __future__ import annotations

import math

import torch
from torch import Tensor

WORK = 4
"""Passes over a tensor that take as long as one draw of it."""


def work_of_trunc_normal(tensor: Tensor, mean: float, std: float, low: float, high: float) -> float:
    """Return the work that filling a tensor is expected to take, in elements; infinite if it might never end."""
    if not (tensor.is_floating_point() and tensor.numel()):
        return 0.0
    accepted = (math.erf((high - mean) / std / math.sqrt(2)) - math.erf((low - mean) / std / math.sqrt(2))) / 2
    if accepted <= 0.3:  # torch draws uniformly within the bounds, and accepts by the density there
        if std <= torch.finfo(tensor.dtype).eps * max(map(abs, (mean, low, high))):
            return math.inf  # values are rounded away from where the density is
        peak = math.exp(-(((min(max(mean, low), high) - mean) / std) ** 2) / 2)
        accepted *= std * math.sqrt(2 * math.pi) / (peak * (high - low))
    if accepted <= 0:
        return math.inf
    rounds = 1 if accepted >= 1 else 1 - math.log(tensor.numel()) / math.log1p(-accepted)
    return WORK * rounds * tensor.numel()
