"""Check that a prediction depends on its own image alone, by evaluating the same images in other batches."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from harness.audit.probe import BLACK, TOLERANCE, WHITE, relative_distance
from harness.errors import AuditError

MOST_CHANGED = 2
"""Most scored images whose class may differ in another batch: rounding decides for an image between two classes."""

LARGEST_BATCH = 1_000
"""Images in the largest batch that the audit evaluates; a GPU scores as many at a time."""


def refuse_changed_classes(predictions: Tensor, other_predictions: Tensor, context: str, path: str) -> None:
    """Refuse a network whose scored predictions change their class in another batch.

    Only classes are compared: they are what is scored, and they do not depend on a scale or an offset.

    Args:
        predictions: (N, 10) logits that were scored.
        other_predictions: (N, 10) logits for the same images in another batch.
        context: what was different about that batch, for the message.
        path: file name for messages.

    Raises:
        AuditError: more than `MOST_CHANGED` images change their class.
    """
    changed = int((predictions.argmax(1) != other_predictions.argmax(1)).sum())
    if changed > MOST_CHANGED:
        raise AuditError(
            "batch",
            f"The network gives {changed:,} of {len(predictions):,} images another class when evaluated {context}.",
            where=path,
            allowed="A prediction depends on its own image alone.",
            hint="Look for statistics over the batch axis: batch norm without running statistics, mean over dim 0.",
        )


def refuse_batch_dependence(
    scored: Callable[[Tensor], Tensor], images: Tensor, path: str, *, largest_batch: int = LARGEST_BATCH
) -> None:
    """Evaluate a few images in different batches, and refuse a network whose predictions for them differ.

    Training can open a gate that was closed when the network was audited, so check again after training.

    Args:
        scored: maps images to (N, 10) logits.
        images: (N, 1, 28, 28), a few.
        path: file name for messages.
        largest_batch: images in the largest batch.

    Raises:
        AuditError: a prediction depends on more than its own image.
    """
    dark, bright = torch.full_like(images, BLACK), torch.full_like(images, WHITE)
    many = torch.cat([images, dark.repeat(math.ceil(largest_batch / len(images)), 1, 1, 1)])[:largest_batch]
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)).mul(0.05).to(images)
    with torch.no_grad():
        together = scored(images)
        if not together.isfinite().all():
            return  # nothing to compare: the moved parameters overflow in a deep network
        other_predictions = {
            "reversed": scored(images.flip(0)).flip(0),
            "beside other images": scored(torch.cat([images, bright, dark]))[: len(images)],
            "beside images like them": scored(torch.cat([images, images + noise]))[: len(images)],
            "in a large batch": scored(many)[: len(images)],
            "two at a time": torch.cat([scored(pair) for pair in images.split(2)]),
            "beside a broken image": _beside_a_broken_image(scored, images, together),
            "again": scored(images),
        }
    for context, predictions in other_predictions.items():
        refuse_other_predictions(together, predictions, context, path)


def refuse_other_predictions(predictions: Tensor, other_predictions: Tensor, context: str, path: str) -> None:
    """Refuse a network whose logits for the same images differ in another batch; arguments as `refuse_changed_classes`.

    Raises:
        AuditError: they differ by more than rounding. The mean over classes is subtracted first: it has no effect on
            the class, and a large one would hide differences.
    """
    predictions, other_predictions = (
        given.double() - given.double().mean(1, keepdim=True) for given in (predictions, other_predictions)
    )
    if (difference := relative_distance(predictions, other_predictions)) > TOLERANCE:
        raise AuditError(
            "batch",
            f"The network's predictions change (by {difference:.2g}) when the same images are evaluated {context}.",
            where=path,
            allowed="A prediction depends on its own image alone.",
            hint="Look for statistics over the batch axis: batch norm without running statistics, mean over dim 0.",
        )


def _beside_a_broken_image(scored: Callable[[Tensor], Tensor], images: Tensor, together: Tensor) -> Tensor:
    """Return the logits of images evaluated beside images of NaN, which pass even a connection whose weight is zero."""
    broken = torch.cat([images, torch.full_like(images[:2], math.nan)])
    try:
        return scored(broken)[: len(images)]
    except (RuntimeError, IndexError):  # a network may use pixels as indices into a table
        return together
