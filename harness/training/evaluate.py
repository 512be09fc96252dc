"""Evaluation: logits, scores, the confusion matrix, and the most confident wrong predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.data import Dataset, Split, to_float
from harness.spec import Budget

BATCH = {"cpu": 250, "cuda": 1_000}
"""Images scored at a time, by device: on a CPU their feature maps fit into the cache, on a GPU kernels are few and
large. Predictions depend on it only through rounding, which the audit has checked."""

COMPILED_BATCH = 125
"""Images scored at a time by a compiled run: feature maps of more, for five shifts, exceed what glibc keeps."""


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy and accuracy, a fraction of 1, over a split."""

    loss: float
    accuracy: float


@torch.no_grad()
def predict(network: Callable[[Tensor], Tensor], dataset: Dataset, split: Split, batch: int | None = None) -> Tensor:
    """Return the (N, 10) float32 logits for the images of a split.

    Args:
        network: maps normalised (N, 1, 28, 28) images to (N, 10) logits.
        dataset: normalises the images.
        split: the images, on the device of the network.
        batch: images evaluated at a time; by default `BATCH` of the device.
    """
    batch = batch or BATCH[split.images.device.type]
    return torch.cat([network(dataset.normalise(to_float(part))).float() for part in split.images.split(batch)])


def score(logits: Tensor, labels: Tensor) -> Score:
    """Return loss and accuracy of (N, 10) logits or log-probabilities for (N,) labels; rows with NaN count as wrong."""
    correct = logits.argmax(1).eq(labels) & ~logits.isnan().any(1)
    return Score(F.cross_entropy(logits, labels).item(), int(correct.sum()) / len(labels))


def confusion(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Count (N,) predictions by true class (rows) and predicted class (columns): (10, 10) int64."""
    counts = np.zeros((10, 10), dtype=np.int64)
    np.add.at(counts, (labels, predictions), 1)
    return counts


def class_accuracy(counts: np.ndarray) -> np.ndarray:
    """Return the (10,) accuracy for each true class; every class must have images."""
    return counts.diagonal() / counts.sum(1)


def hardest(logits: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Return positions of up to `count` wrong predictions, the most confident first; ties by position."""
    confidence = softmax(logits).max(1)
    wrong = np.flatnonzero(logits.argmax(1) != labels)
    return wrong[np.argsort(-confidence[wrong], kind="stable")][:count]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return (N, 10) probabilities in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


@dataclass(frozen=True)
class Target:
    """One of the challenge's three targets, as text for printing, and whether it was met."""

    name: str
    reached: str
    limit: str
    met: bool


def verdict(parameters: int, epochs: int, accuracy: float, budget: Budget, is_benchmark: bool) -> list[Target]:
    """Compare a finished run with the targets; accuracy is a target only for the benchmark dataset."""
    targets = [
        Target("parameters", f"{parameters:,}", f"at most {budget.parameters:,}", parameters <= budget.parameters),
        Target("epochs", f"{epochs}", f"fewer than {budget.epochs + 1}", epochs <= budget.epochs),
    ]
    if is_benchmark:
        limit = f"at least {100 * budget.accuracy:.2f} %"
        targets.append(Target("accuracy", f"{100 * accuracy:.2f} %", limit, accuracy >= budget.accuracy))
    return targets
