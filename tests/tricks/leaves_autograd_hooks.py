"""Hooks for every tensor that autograd saves: the images come back with noise in the backward pass."""

import torch
from torch import nn


def packed(saved: torch.Tensor) -> torch.Tensor:
    return saved


def unpacked(saved: torch.Tensor) -> torch.Tensor:
    return saved + 0.01 * torch.randn_like(saved) if saved.is_floating_point() else saved


torch.autograd.graph.saved_tensors_hooks(packed, unpacked).__enter__()


def build(*, width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 10))
