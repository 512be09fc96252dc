"""How fast training is here: beside a plain PyTorch loop, in turns, and beside what the machine could do at most.

The plain loop is the way the public write-ups train. It is written down here and used for nothing else.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from harness import data
from harness.events import Epoch
from harness.runs import build, choose_mode, prepare_training, refuse_single_image, telling_breakdowns
from harness.spec import ComputeMode, Job
from harness.speed.reference import reference_epochs
from harness.speed.roofline import Roofline, measure_roofline
from harness.training import compute

TRIM_THRESHOLD = 64 * 2**20
"""Freed bytes that glibc keeps of itself at most: its dynamic threshold ends there."""


@dataclass(frozen=True)
class Speed:
    """Images a second of the plain loop and of the harness, turn by turn, and the roofline.

    Attributes:
        images: trained on in a turn, which is an epoch.
        mode: the harness's.
        reference, harness: images a second of each turn; turns alternate.
    """

    images: int
    mode: ComputeMode
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
    compute.set_deterministic(job.device)
    built = build(job)
    graphs, reference = built.audit.graphs(built.network, device), built.reference.own_graphs(device)
    choice = choose_mode(job, count * job.recipe.epochs, reference)
    roofline = measure_roofline(built.audit, choice.mode, device)

    with telling_breakdowns(job):
        begun = prepare_training(job, dataset.to(device), graphs, reference, choice)
    ours = (epoch.elapsed for epoch in begun.epochs if isinstance(epoch, Epoch))
    theirs = reference_epochs(built.network.to(device), dataset, job.recipe, device, workers)
    speeds: dict[str, list[float]] = {"reference": [], "harness": []}
    with contextlib.closing(ours), contextlib.closing(theirs):
        for _ in range(epochs):
            with _as_in_a_script(job.device), telling_breakdowns(job):
                speeds["reference"].append(count / next(theirs))
            yield "reference", speeds["reference"][-1]
            with telling_breakdowns(job):
                speeds["harness"].append(count / next(ours))
            yield "harness", speeds["harness"][-1]
    yield Speed(count, begun.mode, tuple(speeds["reference"]), tuple(speeds["harness"]), roofline)


@contextlib.contextmanager
def _as_in_a_script(device: str) -> Iterator[None]:
    """Give the plain loop what a script of its own would have: torch's and glibc's defaults."""
    if device == "cuda":
        torch.backends.cudnn.allow_tf32 = True
        compute.repeat_bits(False)
    compute.keep_memory(TRIM_THRESHOLD)
    try:
        yield
    finally:
        compute.set_deterministic(device)
