"""Scores an epoch, rechecks the final predictions, and builds the result of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from harness import audit, data
from harness.errors import DivergedError
from harness.events import Epoch, Result
from harness.spec import BUDGET
from harness.training import class_accuracy, confusion, hardest, predict, score

FEW = {"cpu": 37, "cuda": 613}
"""Batch size when all held-out images are predicted again; very different from `evaluate.BATCH`."""

PAIRED = {"cpu": 1_000, "cuda": 200}
"""Number of images that are also predicted in batches of two, which is slow."""

EVERY_KIND = 100
"""Number of images that are predicted in several other batches: enough for each class to be among them."""

HARDEST = 25
"""Number of the most confidently wrong images that a run keeps."""


def recheck_predictions(scored: Callable[[Tensor], Tensor], logits: Tensor, dataset: data.Dataset, path: str) -> None:
    """Check that the trained network's predictions do not depend on the other images of a batch.

    The audit checks this before training, but learned weights may open a path between images that was closed then.

    Args:
        scored: the trained network.
        logits: (N, 10), its predictions for the held-out images.
        path: of the plug-in, for the error.

    Raises:
        AuditError: a prediction depends on its batch.
    """
    first = dataset.normalise(data.to_float(dataset.held_out.images[:EVERY_KIND]))
    audit.refuse_batch_dependence(scored, first, path)
    # Only real images may open the path, so the scored predictions themselves are repeated in other batches.
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(0)).to(logits.device)
    device = logits.device.type
    for batch, evaluated in ((FEW[device], order), (2, order[: PAIRED[device]])):
        again = predict(scored, dataset, dataset.held_out.at(evaluated), batch)
        audit.refuse_changed_classes(logits[evaluated], again, f"shuffled and {batch} at a time", path)


def scored_epoch(epoch: Epoch, logits: Tensor, dataset: data.Dataset) -> Epoch:
    """Return an epoch with the held-out loss and accuracy of `logits` of shape (N, 10).

    Raises:
        DivergedError: the loss is not finite.
    """
    held_out = score(logits, dataset.held_out.labels)
    if not math.isfinite(held_out.loss):
        raise DivergedError(
            f"Training diverged: the held-out loss after epoch {epoch.number} was {held_out.loss:g}.",
            allowed=f"The training loss of that epoch was {epoch.train_loss:.4g}.",
            hint="Lower lr, or look for a log or division by zero in the network.",
        )
    return replace(epoch, held_out_loss=held_out.loss, held_out_accuracy=held_out.accuracy)


def result_of(
    epochs: Sequence[Epoch],
    scoring: float,
    logits: Tensor,
    dataset: data.Dataset,
    weights: Mapping[str, Tensor],
) -> Result:
    """Return the result of a run that has trained all of its epochs.

    Args:
        epochs: all epochs, scored.
        scoring: seconds spent on scoring.
        logits: (N, 10), of the held-out images after the last epoch.
    """
    last, predictions, labels = epochs[-1], logits.cpu().numpy(), dataset.held_out.labels.cpu().numpy()
    curve = [epoch.held_out_accuracy for epoch in epochs if epoch.held_out_accuracy is not None]
    reached = [number for number, accuracy in enumerate(curve, 1) if accuracy >= BUDGET.accuracy]
    wrong = hardest(predictions, labels, HARDEST)
    assert last.held_out_loss is not None
    return Result(
        accuracy=curve[-1],
        class_accuracy=tuple(class_accuracy(confusion(predictions.argmax(1), labels)).tolist()),
        loss=last.held_out_loss,
        best_accuracy=max(curve),
        best_epoch=curve.index(max(curve)) + 1,
        epochs_to_target=reached[0] if reached and dataset.is_benchmark else None,
        seconds=scoring + sum(epoch.seconds for epoch in epochs),
        wall_seconds=scoring + sum(epoch.elapsed for epoch in epochs),
        logits=predictions,
        labels=labels,
        images=dataset.held_out.images.cpu().numpy()[wrong],
        hardest=wrong,
        weights=weights,
    )
