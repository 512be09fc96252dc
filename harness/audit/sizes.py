"""Which numbers of images a batch may have: a graph has conditions where it was not exported for every number."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.fx import GraphModule

from harness.audit.probe import TRAINED_TOGETHER, made_up_images, quiet, restored
from harness.errors import AuditError

MNIST = 60_000
"""Training images of MNIST, for checks without a dataset."""

MOST_TRIED = 128
"""Most images of a trial step: a network that takes no number up to this one is refused."""

MOST_SHOWN = 1_000
"""Images of the largest batch that a description of the conditions considers."""


def accepts(graph: GraphModule, count: int) -> bool:
    """Whether a graph, of `ExportedProgram.module()`, runs on batches of `count` images: its first step checks that."""
    try:
        graph.get_submodule("_guards_fn")(torch.empty(1, 1, 28, 28).expand(count, -1, -1, -1))
    except AssertionError:
        return False
    return True


def step_size(graph: GraphModule, least: int = TRAINED_TOGETHER) -> int:
    """Return the number of images of a trial step: the first from `least` on that a graph accepts."""
    return next(count for count in range(least, MNIST) if accepts(graph, count))


def size_that_runs(network: nn.Module) -> int:
    """Return the first number of images from `TRAINED_TOGETHER` on that a network takes in training, or that number.

    Ghost batch norm needs batches that it can split into equal parts.
    """
    for count in range(TRAINED_TOGETHER, MOST_TRIED + 1):
        with contextlib.suppress(Exception), restored(network), quiet(), torch.random.fork_rng(), torch.no_grad():
            network.train()
            network(made_up_images(count))
            return count
    return TRAINED_TOGETHER


def accepted_sizes(graph: GraphModule, most: int = MOST_SHOWN) -> list[int]:
    """Return the numbers of images, up to `most`, of batches that a graph accepts."""
    return [count for count in range(2, most + 1) if accepts(graph, count)]


def condition(graph: GraphModule) -> str:
    """Return what the conditions of a graph demand of a batch, as ``must split into 3 equal parts``, or ''."""
    accepted = accepted_sizes(graph)
    first, last, step = accepted[0], accepted[-1], math.gcd(*accepted)
    if len(accepted) == MOST_SHOWN - 1:
        return ""
    if step > 1 and len(accepted) > 1 and accepted == [*range(first, MOST_SHOWN + 1, step)]:
        return f"must split into {step} equal parts of at least {first // step} images"
    if len(accepted) == last - first + 1 and last < MOST_SHOWN:
        return f"must have {_runs(accepted)} images"
    return f"must not have {_runs(sorted({*range(2, MOST_SHOWN + 1)} - {*accepted}))} images"


def _runs(numbers: Sequence[int], most: int = 4) -> str:
    """Return sorted numbers as ``2 to 15, 17 or 20``, and ``...`` after the first runs of them."""
    starts = [number for number in numbers if number - 1 not in {*numbers}]
    ends = [number for number in numbers if number + 1 not in {*numbers}]
    runs = [str(start) if start == end else f"{start} to {end}" for start, end in zip(starts, ends, strict=True)]
    return ", ".join([*runs[:most], *["..."][: len(runs) > most]])


def refuse_uneven_batches(graph: GraphModule, batch_size: int, path: str, images: int = MNIST) -> None:
    """Refuse a training with batches that its graph does not accept, as ghost batch norm splits them into equal parts.

    Args:
        graph: what is trained, of `ExportedProgram.module()`.
        batch_size: images of a step.
        path: file name for messages.
        images: images of an epoch; the last, short batch holds what remains of them.

    Raises:
        AuditError: a step has a number of images that the graph does not accept.
    """
    refused = [size for size in _sizes(images, batch_size) if not accepts(graph, size)]
    if not refused:
        return
    better = suitable_batch_size(graph, images, batch_size)
    ways = [f"Set batch_size to {better}." if better else f"No batch_size works for {images:,} images."]
    if len(accepted_sizes(graph)) < MOST_SHOWN / 2:
        ways.append("torch.cat([norm(part) for part in maps.chunk(k)]) splits nearly any batch into k parts.")
    raise AuditError(
        "uneven-batch",
        f"In training a batch {condition(graph)}, but one has {refused[0]:,}.",
        where=path,
        allowed=f"This holds for each batch of an epoch of {images:,} images, also for the last, short one.",
        hint=" ".join(ways),
    )


def suitable_batch_size(graph: GraphModule, images: int, batch_size: int) -> int | None:
    """Return the batch size nearest to `batch_size` with which a graph trains on so many images, or None."""
    accepted = {*accepted_sizes(graph, images)}
    suitable = (size for size in accepted if accepted.issuperset(_sizes(images, size)))
    return min(suitable, key=lambda size: abs(size - batch_size), default=None)


def _sizes(images: int, batch_size: int) -> Iterator[int]:
    """Yield the numbers of images of a full step and, where there is one, of the last, short step of an epoch."""
    yield min(images, batch_size)
    if images > batch_size and images % batch_size:
        yield images % batch_size
