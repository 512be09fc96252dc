"""The training loop. `fit` is a generator: it yields one `Epoch` at a time and leaves the rest to its caller.

Reads top to bottom: random numbers, learning rates, optimiser, averaging, training. It knows no
tracker and no file. Every random number is a pure function of (seed, epoch, purpose), so an epoch can
be run again, or resumed at, with nothing saved but weights, buffers, averages and optimiser state.
"""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import get_ema_multi_avg_fn

from harness.augment import DRAWS, augment, strength
from harness.data import Dataset, to_float
from harness.errors import DivergedError
from harness.spec import Epoch, Recipe

# --- random numbers ---------------------------------------------------------------------------------------


def derive_seed(seed: int, epoch: int, purpose: str) -> int:
    """Return a 63-bit seed that is a pure function of its arguments."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seed_everything(seed: int, epoch: int, purpose: str) -> None:
    """Seed the global generators of torch (every device), numpy and Python: what a plug-in's layers draw from."""
    derived = derive_seed(seed, epoch, purpose)
    torch.manual_seed(derived)
    np.random.seed(derived % 2**32)
    random.seed(derived)


def _generator(device: torch.device, seed: int, epoch: int, purpose: str) -> torch.Generator:
    return torch.Generator(device).manual_seed(derive_seed(seed, epoch, purpose))


# --- learning rates ---------------------------------------------------------------------------------------


def learning_rates(recipe: Recipe, steps: int) -> list[float]:
    """Return the learning rate of every step of training, `steps` of them an epoch.

    One-cycle is the two-phase cosine of Smith & Topin (2018) with PyTorch's constants (from lr/25 up
    to lr, down to lr/250,000); its rising part is `warmup_epochs`, or 30 % of training where that is 0.
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


def make_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Make the recipe's optimiser; tensors of one axis or none (norms, biases) do not decay."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.momentum, 0.999))
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov)


# --- averaging --------------------------------------------------------------------------------------------


class Average:
    """An exponential moving average of a network's parameters and buffers, by name; counts are copied."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        current = network.state_dict()  # these tensors stay the network's own while it trains in place
        self.state = {name: tensor.detach().clone() for name, tensor in current.items()}
        self._blend = get_ema_multi_avg_fn(decay)
        pairs = [(self.state[name], tensor) for name, tensor in current.items()]
        self._floating = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counts = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average one step towards the network."""
        averages, current = zip(*self._floating, strict=True)
        self._blend(averages, current, 0)
        for average, count in self._counts:
            average.copy_(count)


# --- training ---------------------------------------------------------------------------------------------


def fit(
    network: nn.Module, dataset: Dataset, recipe: Recipe, seed: int, average: Average | None = None
) -> Iterator[Epoch]:
    """Train `network` in place on the training split, yielding after every epoch.

    Args:
        network: maps normalised (N, 1, 28, 28) images to (N, 10) logits or log-probabilities; on the
            dataset's device and in training mode.
        average: moved after every step where given.

    Raises:
        DivergedError: the loss of a step was infinite or not a number; found at the epoch's end.
    """
    images, labels = dataset.train.images, dataset.train.labels
    device, count = images.device, len(images)
    steps = math.ceil(count / recipe.batch_size)
    rates = learning_rates(recipe, steps)
    optimizer = make_optimizer(network, recipe)

    for epoch in range(1, recipe.epochs + 1):
        seed_everything(seed, epoch, "network")  # dropout and whatever else the network draws
        order = torch.randperm(count, generator=_generator(device, seed, epoch, "order"), device=device)
        draws = torch.rand(count, DRAWS, generator=_generator(device, seed, epoch, "augment"), device=device)
        losses = torch.zeros(steps, device=device)
        correct = torch.zeros((), dtype=torch.int64, device=device)
        now = strength(recipe, epoch)

        _wait(device)
        started = time.perf_counter()
        for step, batch in enumerate(order.split(recipe.batch_size)):
            pixels = to_float(images[batch])
            if recipe.augments and now > 0:
                pixels = augment(pixels, draws[batch], recipe, now)
            for group in optimizer.param_groups:
                group["lr"] = rates[(epoch - 1) * steps + step]
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
                logits = network(dataset.normalise(pixels)).float()
            loss = F.cross_entropy(logits, labels[batch], label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if average is not None:
                average.update()
            losses[step] = loss.detach()
            correct += logits.argmax(1).eq(labels[batch]).sum()
        _wait(device)
        seconds = time.perf_counter() - started

        _refuse_divergence(losses.cpu(), rates, epoch)
        sizes = torch.tensor([len(batch) for batch in order.split(recipe.batch_size)], dtype=torch.float64)
        yield Epoch(
            number=epoch,
            lr=rates[epoch * steps - 1],
            train_loss=float((losses.cpu().double() * sizes).sum() / count),
            train_accuracy=int(correct) / count,
            seconds=seconds,
            images_per_second=count / seconds,
        )


def _wait(device: torch.device) -> None:
    """Let queued device work finish, so that the clock measures it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _refuse_divergence(losses: Tensor, rates: list[float], epoch: int) -> None:
    finite = losses.isfinite()
    if bool(finite.all()):
        return
    first = int((~finite).nonzero()[0])
    before = f"the last finite loss was {losses[first - 1]:.4g}" if first else "no step of this epoch had a finite loss"
    raise DivergedError(
        f"Training diverged: the loss was {losses[first]:g} at step {first + 1} of epoch {epoch}; {before}.",
        legal=f"The learning rate there was {rates[(epoch - 1) * len(losses) + first]:g}.",
        mend="Lower lr, add warmup_epochs, or look for a log or division by zero in the network.",
    )
