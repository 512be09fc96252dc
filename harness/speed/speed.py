"""Measures the speed of training, in turns with a plain PyTorch loop, and beside the roofline of the device."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from harness import data
from harness.audit import over_the_same_tensors, refuse_uneven_batches
from harness.events import Epoch
from harness.runs import build, choose_mode, prepare_training, raising_crashes, refuse_single_image
from harness.spec import ComputeMode, Job
from harness.speed.reference import reference_epochs
from harness.speed.roofline import Roofline, measure_roofline
from harness.training import compute

TRIM_THRESHOLD = 64 * 2**20
"""Most freed bytes that glibc keeps by default: the maximum of its dynamic threshold."""


@dataclass(frozen=True)
class Speed:
    """Speed of the plain loop and of the harness, turn by turn, and the roofline.

    Attributes:
        images: training images of a turn, which is one epoch.
        mode: the compute mode of the harness.
        reference, harness: images per second of each turn, of the plain loop and of the harness; turns alternate.
    """

    images: int
    mode: ComputeMode
    reference: tuple[float, ...]
    harness: tuple[float, ...]
    roofline: Roofline

    @property
    def ratios(self) -> list[float]:
        """The harness's speed divided by the plain loop's, for each pair of turns."""
        return [ours / theirs for ours, theirs in zip(self.harness, self.reference, strict=True)]

    @property
    def ratio(self) -> float:
        """The median of `ratios`."""
        return statistics.median(self.ratios)


def measure(job: Job, epochs: int, workers: int) -> Iterator[tuple[str, float] | Speed]:
    """Train `epochs` epochs with each of the two loops, in turns, and yield the speed of each turn and at last `Speed`.

    A turn yields ``reference`` or ``harness`` and its images per second. Both loops train the same network by the same
    recipe from the same seed. Setup, such as compiling and starting worker processes, is not timed.

    Args:
        job: its number of epochs decides whether compiling pays off, as in a run.
        workers: processes that load images for the plain loop; 0, torch's default, loads them in this process.

    Raises:
        Refusal: the plug-in breaks a rule.
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
    graphs, reference = built.audit.graphs(built.network, device), built.audit.own_graphs(device)
    refuse_uneven_batches(graphs.train, job.recipe.batch_size, job.path, count)
    choice = choose_mode(job, count * job.recipe.epochs, reference)
    roofline = measure_roofline(built.audit, choice.mode, device)

    with raising_crashes(job):
        prepared = prepare_training(job, dataset.to(device), graphs, reference, choice)
    ours = (epoch.elapsed for epoch in prepared.epochs if isinstance(epoch, Epoch))
    plain = over_the_same_tensors(built.audit.graphs(built.network, device).train)
    theirs = reference_epochs(plain, dataset, job.recipe, device, workers)
    speeds: dict[str, list[float]] = {"reference": [], "harness": []}
    with contextlib.closing(ours), contextlib.closing(theirs):
        for _ in range(epochs):
            with _as_in_a_script(job.device), raising_crashes(job):
                speeds["reference"].append(count / next(theirs))
            yield "reference", speeds["reference"][-1]
            with raising_crashes(job):
                speeds["harness"].append(count / next(ours))
            yield "harness", speeds["harness"][-1]
    yield Speed(count, prepared.mode, tuple(speeds["reference"]), tuple(speeds["harness"]), roofline)


@contextlib.contextmanager
def _as_in_a_script(device: str) -> Iterator[None]:
    """Restore torch's and glibc's defaults, which the plain loop would have in a script of its own."""
    if device == "cuda":
        torch.backends.cudnn.allow_tf32 = True
        compute.repeat_bits(False)
    compute.keep_memory(TRIM_THRESHOLD)
    try:
        yield
    finally:
        compute.set_deterministic(device)
