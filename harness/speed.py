"""How fast training is here: beside a plain PyTorch loop, in turns, and beside what the machine could do at most.

The plain loop is the way the public write-ups train. It is written down here and used for nothing else.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.fx import Node
from torch.nn import functional as F
from torch.utils.data import DataLoader

from harness import arithmetic, data, inspection, training
from harness.audit import Audit
from harness.data import SIDE
from harness.experiment import begin, choose_arithmetic, refuse_single_image, telling_breakdowns
from harness.graph import operators, short_name
from harness.spec import Arithmetic, Epoch, Job, Recipe

TRIM_THRESHOLD = 64 * 2**20
"""Freed bytes that glibc keeps of itself at most: its dynamic threshold ends there."""

COPIED = 2**28
"""Bytes copied to measure memory: far more than any cache holds."""

SQUARE = {"cpu": 2048, "cuda": 8192}
"""Side of the matrices multiplied to measure arithmetic."""

ROUNDS, CALLS = 3, 4
"""Rounds of calls that a measurement takes."""


@dataclass(frozen=True)
class Roofline:
    """What keeps training from being any faster on this machine.

    Attributes:
        bandwidth: measured bytes a second that a large copy reads and writes.
        rate: measured floating-point operations a second of a large matrix product, in the precision used.
        bytes: that convolutions and linear layers must read and write for one image, forward and backward.
        operations: that they must do.
    """

    bandwidth: float
    rate: float
    bytes: float
    operations: float

    @property
    def images_per_second(self) -> float:
        """The images a second at which the scarcer of the two is used up."""
        return min(self.bandwidth / self.bytes, self.rate / self.operations)


@dataclass(frozen=True)
class Speed:
    """Images a second of the plain loop and of the harness, turn by turn, and the roofline.

    Attributes:
        images: trained on in a turn, which is an epoch.
        arithmetic: the harness's.
        reference, harness: images a second of each turn; turns alternate.
    """

    images: int
    arithmetic: Arithmetic
    reference: tuple[float, ...]
    harness: tuple[float, ...]
    roofline: Roofline

    @property
    def ratios(self) -> list[float]:
        """The harness's speed over the plain loop's, by pair of turns."""
        return [ours / theirs for ours, theirs in zip(self.harness, self.reference, strict=True)]

    @property
    def ratio(self) -> float:
        """The median of `ratios`."""
        return statistics.median(self.ratios)


def measure(job: Job, epochs: int, workers: int) -> Iterator[tuple[str, float] | Speed]:
    """Train `epochs` epochs in each of the two ways, in turns; yield (``reference`` or ``harness``, images a second).

    The last thing yielded is the whole. Both train the same network by the same recipe from the same
    seed. Setting up, as compiling or starting worker processes, is not timed.

    Args:
        job: its own number of epochs decides whether compiling pays, as in a run.
        workers: processes that load images for the plain loop; 0 as in torch's own default.

    Raises:
        Refusal: the plug-in is not legal.
        UsageError: the recipe leaves a batch of one image.
        DivergedError: a loss became infinite or not a number.
        CrashedError: the plug-in raises in training.
    """
    device = torch.device(job.device)
    dataset = data.load(job.dataset, job.held_out)
    count = len(dataset.train.labels)
    refuse_single_image(count, job.recipe)
    arithmetic.settle(job.device)
    built = inspection.build(job)
    graphs, reference = built.audit.graphs(built.network, device), built.reference.own_graphs(device)
    choice = choose_arithmetic(job, count * job.recipe.epochs, reference)
    roofline = measure_roofline(built.audit, choice.arithmetic, device)

    with telling_breakdowns(job):
        begun = begin(job, dataset.to(device), graphs, reference, choice)
    ours = (epoch.elapsed for epoch in begun.epochs if isinstance(epoch, Epoch))
    theirs = _reference_epochs(built.network.to(device), dataset, job.recipe, device, workers)
    speeds: dict[str, list[float]] = {"reference": [], "harness": []}
    with contextlib.closing(ours), contextlib.closing(theirs):
        for _ in range(epochs):
            with _as_in_a_script(job.device), telling_breakdowns(job):
                speeds["reference"].append(count / next(theirs))
            yield "reference", speeds["reference"][-1]
            with telling_breakdowns(job):
                speeds["harness"].append(count / next(ours))
            yield "harness", speeds["harness"][-1]
    yield Speed(count, begun.arithmetic, tuple(speeds["reference"]), tuple(speeds["harness"]), roofline)


@contextlib.contextmanager
def _as_in_a_script(device: str) -> Iterator[None]:
    """Give the plain loop what a script of its own would have: torch's and glibc's defaults."""
    if device == "cuda":
        torch.backends.cudnn.allow_tf32 = True
        arithmetic.repeat(False)
    arithmetic.keep_memory(TRIM_THRESHOLD)
    try:
        yield
    finally:
        arithmetic.settle(device)


# --- the plain loop ---------------------------------------------------------------------------------------


class _Images(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Training images one by one, as torchvision's MNIST class gives them: a picture, transformed, and its label."""

    def __init__(self, split: data.Split, recipe: Recipe, mean: float, std: float) -> None:
        self.images, self.labels = split.images, split.labels
        self.transform = _transforms(recipe, mean, std)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index].numpy())), int(self.labels[index])


def _transforms(recipe: Recipe, mean: float, std: float) -> Callable[[Image.Image], Tensor]:
    """Return a recipe's augmentation in torchvision's words."""
    from torchvision import transforms  # deferred: 1.4 s

    steps: list[Any] = []
    if recipe.zoom_p:
        zoom = [transforms.CenterCrop(recipe.zoom_crop), transforms.Resize((SIDE, SIDE))]
        steps.append(transforms.RandomApply(zoom, p=recipe.zoom_p))
    if recipe.translate or recipe.scale or recipe.shear:
        shear = math.degrees(math.atan(recipe.shear))
        steps.append(
            transforms.RandomAffine(
                degrees=recipe.rotation,
                translate=(recipe.translate / 2, recipe.translate / 2),  # theirs are shares of the whole width
                scale=(1 - recipe.scale, 1 + recipe.scale),
                shear=(-shear, shear),
            )
        )
    elif recipe.rotation:
        steps.append(transforms.RandomRotation(recipe.rotation))
    steps += [transforms.ToTensor(), transforms.Normalize((mean,), (std,))]
    compose: Callable[[Image.Image], Tensor] = transforms.Compose(steps)
    return compose


def _reference_epochs(
    network: nn.Module, dataset: data.Dataset, recipe: Recipe, device: torch.device, workers: int
) -> Generator[float]:
    """Yield the seconds of each epoch."""
    loader = DataLoader(
        _Images(dataset.train, recipe, dataset.mean, dataset.std),
        batch_size=recipe.batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )
    if workers:
        iter(loader)  # starts them
    optimizer = training.make_optimizer(network, recipe)
    average = training.Average(network, recipe.ema) if recipe.ema else None
    rates = iter(training.learning_rates(recipe, len(loader)))
    network.train()
    for _ in range(recipe.epochs):
        started = time.perf_counter()
        for images, labels in loader:
            images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            rate = next(rates)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            loss = F.cross_entropy(network(images), labels, label_smoothing=recipe.label_smoothing)
            loss.backward()
            optimizer.step()
            if average:
                average.update()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        yield time.perf_counter() - started


# --- the roofline -----------------------------------------------------------------------------------------


def measure_roofline(found: Audit, chosen: Arithmetic, device: torch.device) -> Roofline:
    """Measure what memory and arithmetic units of `device` do at best, and count what a network asks of them."""
    dtype = torch.bfloat16 if chosen.precision == "bfloat16" else torch.float32
    operations, numbers = work(found)
    source = torch.ones(COPIED // 4, device=device)
    target = torch.empty_like(source)
    side = SQUARE[device.type]
    square = torch.ones(side, side, dtype=dtype, device=device)
    return Roofline(
        bandwidth=2 * COPIED / _fastest(lambda: target.copy_(source), device),
        rate=2 * side**3 / _fastest(lambda: square @ square, device),
        bytes=numbers * dtype.itemsize,
        operations=operations,
    )


def work(found: Audit) -> tuple[int, int]:
    """Count the operations, and the numbers read or written, that training on one image takes at least.

    Convolutions and linear layers alone, as if all between them were free: forward they read their input
    and write their output; backward they read both again and write the input's gradient. A network's
    first layer needs no gradient of its input. A network without any reads its images at least.
    """
    operations = numbers = 0
    for node in operators(found.train):
        if short_name(node) in ("conv2d", "linear"):
            inputs, outputs = _numbers(node.args[0]), _numbers(node)
            is_first = str(node.args[0]) in found.train.graph_signature.user_inputs
            operations += 2 * outputs * _numbers(node.args[1]) * (2 if is_first else 3)
            numbers += 2 * outputs + inputs * (2 if is_first else 3)
    return max(operations, SIDE**2), max(numbers, SIDE**2)


def _numbers(node: object) -> int:
    """Return how many numbers a value holds for one image, or a weight for one output."""
    assert isinstance(node, Node)
    return int(math.prod(node.meta["val"].shape[1:]))


def _fastest(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds one call of `work` takes: the fastest of a few rounds of calls."""
    rounds = []
    for _ in range(ROUNDS + 1):  # one to warm up
        started = time.perf_counter()
        for _ in range(CALLS):
            work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        rounds.append((time.perf_counter() - started) / CALLS)
    return min(rounds)
