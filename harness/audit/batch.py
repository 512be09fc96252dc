"""A prediction depends on its own image alone: the same images are evaluated in other batches."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from harness.audit.probe import TOLERANCE, relative_distance
from harness.errors import AuditError

MOST_CHANGED = 2
"""Most scored images that may be given another class in other company: so many that lie on the edge by rounding."""

LARGEST_BATCH = 1_000
"""Images in the largest batch the audit asks about; as many as are scored at a time on a GPU."""


def refuse_changed_classes(predictions: Tensor, other_predictions: Tensor, context: str, path: str) -> None:
    """Refuse a network whose scored `answers` name other classes than `others`, given in other `context`; both (N, 10).

    However the answers are scaled or shifted, it is the class that is scored.

    Raises:
        AuditError: for more than `MOST_CHANGED` images.
    """
    changed = int((predictions.argmax(1) != other_predictions.argmax(1)).sum())
    if changed > MOST_CHANGED:
        raise AuditError(
            "batch",
            f"The network gives {changed:,} of {len(predictions):,} images another class when evaluated {context}.",
            where=path,
            allowed="An answer depends on its own image alone.",
            hint="Look for statistics over the batch axis: batch norm without running statistics, mean over dim 0.",
        )


def refuse_batch_dependence(
    scored: Callable[[Tensor], Tensor], images: Tensor, path: str, *, largest_batch: int = LARGEST_BATCH
) -> None:
    """Ask about `images` (N, 1, 28, 28) alone and in company, and refuse a network whose answers differ.

    What a network has learned can open a gate that was shut when it was audited: ask again after training.

    Args:
        scored: maps images to (N, 10) logits.
        images: the images, a few.
        path: file name for messages.
        largest_batch: images in the largest batch.

    Raises:
        AuditError: an answer depends on more than its own image.
    """
    dark, bright = torch.zeros_like(images), torch.full_like(images, 2.8)
    many = torch.cat([images, dark.repeat(math.ceil(largest_batch / len(images)), 1, 1, 1)])[:largest_batch]
    with torch.no_grad():
        together = scored(images)
        if not together.isfinite().all():
            return  # nothing to compare: the nudge was too much for a deep network
        other_predictions = {
            "reversed": scored(images.flip(0)).flip(0),
            "beside other images": scored(torch.cat([images, bright, dark]))[: len(images)],
            "in a large batch": scored(many)[: len(images)],
            "two at a time": torch.cat([scored(pair) for pair in images.split(2)]),
            "beside a broken image": _beside_a_broken_image(scored, images, together),
            "again": scored(images),
        }
    for context, predictions in other_predictions.items():
        refuse_other_predictions(together, predictions, context, path)


def refuse_other_predictions(predictions: Tensor, other_predictions: Tensor, context: str, path: str) -> None:
    """Refuse a network that gave `answers` and, to the same images in other `context`, `others`; both (N, 10).

    Raises:
        AuditError: they differ; what all classes have in common does not count, and hides nothing.
    """
    predictions, other_predictions = (
        given.double() - given.double().mean(1, keepdim=True) for given in (predictions, other_predictions)
    )
    if (difference := relative_distance(predictions, other_predictions)) > TOLERANCE:
        raise AuditError(
            "batch",
            f"The network answers differently (by {difference:.2g}) when the same images are evaluated {context}.",
            where=path,
            allowed="An answer depends on its own image alone.",
            hint="Look for statistics over the batch axis: batch norm without running statistics, mean over dim 0.",
        )


def _beside_a_broken_image(scored: Callable[[Tensor], Tensor], images: Tensor, together: Tensor) -> Tensor:
    """Ask beside an image of not-a-numbers: they cross even a connection whose weight is still zero."""
    broken = torch.cat([images, torch.full_like(images[:2], math.nan)])
    try:
        return scored(broken)[: len(images)]
    except (RuntimeError, IndexError):  # a network may look its pixels up in a table
        return together
