"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from harness.data import Dataset
from harness.errors import DivergedError
from harness.events import Checkpoint, Epoch
from harness.spec import REFERENCE, ComputeMode, Recipe
from harness.training.optim import Average, learning_rates
from harness.training.steps import Steps


def fit(
    network: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    seed: int,
    mode: ComputeMode = REFERENCE,
    average: Average | None = None,
    start: Checkpoint | None = None,
    keep: bool = False,
    reference: Mapping[str, Tensor] | None = None,
) -> Iterator[Epoch | Checkpoint | None]:
    """Train `network` in place on the training split, one epoch after the other.

    Each epoch is yielded twice: as None when its work is queued, which on a GPU is the moment to turn to
    something else, and as an `Epoch` when it is done.

    Args:
        network: maps normalised (N, 1, 28, 28) images to (N, 10) logits or log-probabilities; on the
            dataset's device and in training mode. An exported graph where `mode` is compiled, captured or padded.
        average: moved after every step where given.
        start: a checkpoint of the same training, to go on from.
        keep: yield a `Checkpoint` before every `Epoch` but the last.
        reference: numbers by name that stand in for the network's own while it is tried whether it can be compiled or
            captured, so that no seed decides that.

    Raises:
        Miscompiled, Uncapturable: at once; the network is laid out anew by then, and its weights are as they were.
        DivergedError: the loss of a step was infinite or not a number; found at the epoch's end.
    """
    steps = Steps(network, dataset, recipe, mode, average, reference)
    return _epochs(steps, recipe, seed, start, keep)


def _epochs(
    steps: Steps, recipe: Recipe, seed: int, start: Checkpoint | None, keep: bool
) -> Iterator[Epoch | Checkpoint | None]:
    sizes = torch.tensor(steps.sizes, dtype=torch.float64)
    count, total = sum(steps.sizes), len(steps.sizes)
    rates = learning_rates(recipe, total)
    if start:
        steps.restore(start)

    last_loss = math.nan
    for epoch in range(start.epoch + 1 if start else 1, recipe.epochs + 1):
        now = rates[(epoch - 1) * total : epoch * total]
        clock = _Clock(steps.device)
        steps.queue(seed, epoch, now)
        clock.stop()
        yield None
        seconds, wall_seconds = clock.read()

        losses = steps.losses.cpu()
        _refuse_divergence(losses, now, epoch, last_loss)
        last_loss = float(losses[-1])
        if keep and epoch < recipe.epochs:
            yield steps.checkpoint(epoch)
        yield Epoch(
            number=epoch,
            lr=now[-1],
            train_loss=float((losses.double() * sizes).sum() / count),
            train_accuracy=steps.correct / count,
            seconds=seconds,
            images_per_second=count / seconds,
            wall_seconds=wall_seconds,
        )


class _Clock:
    """Times an epoch, from when it is made: the work that is queued until `stop`, and what passes until `read`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()
            self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            self._events[0].record()
        self._started = time.perf_counter()

    def stop(self) -> None:
        """Say that all work is queued; on a CPU it is done."""
        if self._device.type == "cuda":
            self._events[1].record()
        self._stopped = time.perf_counter()

    def read(self) -> tuple[float, float]:
        """Wait for the work, and return the seconds that the device took for it, and those on the wall's clock."""
        if self._device.type != "cuda":
            return self._stopped - self._started, time.perf_counter() - self._started
        self._events[1].synchronize()
        return self._events[0].elapsed_time(self._events[1]) / 1000, time.perf_counter() - self._started


def _refuse_divergence(losses: Tensor, rates: Sequence[float], epoch: int, last_loss: float) -> None:
    """Raise where a loss is not finite; `last_loss` is that of the epoch before, as far as it is known."""
    finite = losses.isfinite()
    if bool(finite.all()):
        return
    first = int((~finite).nonzero()[0])
    before = float(losses[first - 1]) if first else last_loss
    known = f"the last finite loss was {before:.4g}" if math.isfinite(before) else "no step before it had a finite loss"
    raise DivergedError(
        f"Training diverged: the loss was {losses[first]:g} at step {first + 1} of epoch {epoch}, "
        f"at a learning rate of {rates[first]:g}; {known}.",
        hint="Lower lr, add warmup_epochs, or look for a log or division by zero in the network.",
    )
