"""The training loop: `fit` trains a network and yields what happens, epoch by epoch.

`fit` is a generator. It knows no journal, tracker, pruner or console. It yields one record at a time, and its caller
decides what to do with it: score the network, record the epoch, save a checkpoint, prune the trial, or stop by closing
the generator. Because it hands control back, several runs can share one GPU in one thread (`harness.runs.interleave`),
and a test can inspect the network between any two epochs.

What is yielded in each epoch, in this order:

1. ``None``, when all work of the epoch is queued. On a GPU the work is still running, and the caller may queue the work
   of another run meanwhile. On a CPU the work is done.
2. a `Checkpoint`, if ``keep`` is set, except in the last epoch: the state after this epoch.
3. an `Epoch`: training loss and accuracy, learning rate and times. It is not scored; its caller scores the network on
   held-out images and fills in the held-out fields.

Every random number is a pure function of (seed, epoch, purpose): see `harness.seeds`. The purposes used here
are ``order`` (of the images), ``augment`` and ``network`` (dropout); ``weights`` is used when the network is built. No
state of a random generator is carried from one epoch to the next. An epoch can therefore be repeated or resumed with
the same bits from parameters, buffers, averages and optimiser state alone, and these are what a `Checkpoint` holds. To
resume, pass it as ``start``. The number of runs trained side by side has no influence.

How a step is computed is the `ComputeMode`, chosen by `harness.training.compute` and `harness.training.compatible`:

- eager: one operator after the other; float32 eager is the `REFERENCE` that other modes are compared with;
- compiled: by torch.compile with kernels of this project, on a CPU (`memory_layout`, `kernels`). Before the first
  epoch, `steps` compares gradients and statistics with the same network uncompiled;
- captured: as a CUDA graph per batch size, recorded once and replayed (`capture`).

All three are in `harness.training.steps`: `Steps` holds the buffers of an epoch and queues its steps. Steps read their
learning rate and their position in the epoch from tensors on the device, so no step waits for the host.

Compiling and capturing happen when `fit` is called, not at the first ``next``: `Miscompiled` and `Uncapturable` are
raised at once, with the network's weights unchanged, and the caller trains eagerly instead. `DivergedError` is raised
at the end of an epoch in which the loss of a step was not finite, before that epoch is yielded; the message has the
step, the learning rate and the last finite loss.
"""

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
    """Train `network` in place on the training split, and yield each epoch.

    Args:
        network: maps normalised (N, 1, 28, 28) images to (N, 10) logits or log-probabilities; on the dataset's device
            and in training mode. It must be an exported graph if `mode` is compiled, captured or padded.
        dataset: its training images and labels, on the device that trains.
        recipe: the hyperparameters.
        seed: determines all random numbers, with the epoch and the purpose.
        mode: how steps are computed.
        average: an average of the weights, updated after every step.
        start: a checkpoint of the same training, to resume from.
        keep: whether to yield a `Checkpoint` before each `Epoch` but the last.
        reference: parameters and buffers by name, the same for all seeds. They replace the network's own while
            compiling and capturing are tried, so that the outcome does not depend on the seed.

    Yields:
        None when the work of an epoch is queued, then a `Checkpoint` if wanted, then the `Epoch`.

    Raises:
        Miscompiled, Uncapturable: at once; the network's memory layout has changed by then, its weights have not.
        DivergedError: the loss of a step was infinite or NaN; raised at the end of the epoch.
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
    """Measures an epoch from its construction on: device time until `stop`, and wall-clock time until `read`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()
            self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            self._events[0].record()
        self._started = time.perf_counter()

    def stop(self) -> None:
        """Mark the end of the epoch's work: on a GPU it is queued, on a CPU it is done."""
        if self._device.type == "cuda":
            self._events[1].record()
        self._stopped = time.perf_counter()

    def read(self) -> tuple[float, float]:
        """Wait for the work, and return its device time and the wall-clock time, in seconds."""
        if self._device.type != "cuda":
            return self._stopped - self._started, time.perf_counter() - self._started
        self._events[1].synchronize()
        return self._events[0].elapsed_time(self._events[1]) / 1000, time.perf_counter() - self._started


def _refuse_divergence(losses: Tensor, rates: Sequence[float], epoch: int, last_loss: float) -> None:
    """Raise if a loss is not finite; `last_loss` is the last one of the epoch before, or NaN."""
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
