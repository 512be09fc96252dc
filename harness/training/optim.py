"""Learning-rate schedules, the optimiser, and the exponential moving average of weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from harness.spec import Recipe

# --- learning rates ---------------------------------------------------------------------------------------


def learning_rates(recipe: Recipe, steps: int) -> list[float]:
    """Return the learning rate of every step of the training, with `steps` steps per epoch.

    One-cycle is the two-phase cosine of Smith & Topin (2018) with PyTorch's constants: from lr/25 up to lr, then down
    to lr/250,000. Its rising part is `warmup_epochs`, or 30 % of the training if that is 0. Momentum is constant;
    PyTorch's scheduler cycles it by default.
    """
    total = recipe.epochs * steps
    if recipe.schedule == "one-cycle":
        rising = recipe.warmup_epochs * steps if recipe.warmup_epochs else 0.3 * total
        return [_one_cycle(recipe.lr, step, rising, total) for step in range(total)]
    warm = round(recipe.warmup_epochs * steps)
    rates = [recipe.lr * (step + 1) / warm for step in range(warm)]
    for step in range(warm, total):
        done = (step - warm) / (total - warm)
        factor = {
            "constant": 1.0,
            "step": recipe.step_gamma ** (step // steps // recipe.step_epochs),
            "cosine": (1 + math.cos(math.pi * done)) / 2,
            "linear": 1 - done,
        }[recipe.schedule]
        rates.append(recipe.lr * factor)
    return rates


def _one_cycle(peak: float, step: int, rising: float, total: int) -> float:
    if step <= rising - 1:
        start, end, done = peak / 25, peak, step / max(rising - 1, 1)
    else:
        start, end, done = peak, peak / 25e4, (step - rising + 1) / max(total - rising, 1)
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2


# --- optimiser --------------------------------------------------------------------------------------------


def make_optimizer(network: nn.Module, recipe: Recipe, fused: bool = False) -> torch.optim.Optimizer:
    """Return the recipe's optimiser; tensors with at most one axis (norms, biases) have no weight decay.

    Args:
        network: its trainable parameters are optimised.
        recipe: optimizer, lr, momentum, nesterov and weight_decay are used.
        fused: whether to update each group in one kernel. On a GPU it always is, and reads the learning rate from
            the device.
    """
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    decaying, others = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decaying + others, "weight_decay": 0.0}]
    if recipe.weight_decay:
        groups = [{"params": decaying, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    on_gpu = any(parameter.is_cuda for parameter in trained)
    is_fused = ((fused or on_gpu) and all(parameter.is_floating_point() for parameter in trained)) or None
    if recipe.optimizer == "adamw":
        betas = (recipe.momentum, 0.999)
        return torch.optim.AdamW(groups, lr=recipe.lr, betas=betas, fused=is_fused, capturable=on_gpu)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov, fused=is_fused)


# --- averaging --------------------------------------------------------------------------------------------


class Average:
    """An exponential moving average of a network's parameters and buffers, by name; integer counters are copied."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._current = network.state_dict(keep_vars=True)  # the network's tensors, also after a change of layout
        self.state = {name: tensor.detach().clone() for name, tensor in self._current.items()}
        self._blend = get_ema_multi_avg_fn(decay)

    def match_layout(self) -> None:
        """Take over the network's current memory layout, so that one kernel can update all tensors."""
        for name, tensor in self._current.items():
            self.state[name].data = torch.empty_like(tensor).copy_(self.state[name]).detach()

    @torch.no_grad()
    def update(self) -> None:
        """Update the average with the network's current values."""
        averages, current = self._pairs(floating=True)
        self._blend(averages, current, 0)
        kept, counts = self._pairs(floating=False)
        if kept:
            torch._foreach_copy_(kept, counts)

    def _pairs(self, floating: bool) -> tuple[list[Tensor], list[Tensor]]:
        names = [name for name, tensor in self.state.items() if tensor.is_floating_point() is floating]
        return [self.state[name] for name in names], [self._current[name] for name in names]
