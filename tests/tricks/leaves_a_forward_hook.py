"""A hook for every module's forward: what a module of the harness returns is doubled."""

from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook


def double(module: nn.Module, given: Any, found: Any) -> Any:
    return found * 2 if isinstance(found, torch.Tensor) and module.training else None


register_module_forward_hook(double)


def build(*, width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 10))
