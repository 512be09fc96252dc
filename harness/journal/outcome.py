"""The final test pass of a run, as an ``.npz`` file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import BinaryIO

import numpy as np

from harness.errors import DataError


@dataclass(frozen=True, eq=False)
class Outcome:
    """The final test pass of a run, without its logits.

    Attributes:
        answers: (N,) uint8, the predicted class of each test image.
        labels: (N,) int64, the true classes.
        hardest: (K,) positions of the most confidently wrong images.
        confidence: (K,) the probability of each of those wrong predictions.
        images: (K, 28, 28) uint8, those images.
    """

    answers: np.ndarray
    labels: np.ndarray
    hardest: np.ndarray
    confidence: np.ndarray
    images: np.ndarray


ARRAYS = frozenset({declared.name for declared in fields(Outcome)} | {"logits"})
"""The names of all arrays that are ever written with an outcome."""


def result_digest(losses: Sequence[float], correct: np.ndarray) -> str:
    """Return a SHA-256 of what a training came to.

    Args:
        losses: the training loss of each epoch.
        correct: (N,) bool, which test images it classifies correctly.
    """
    return hashlib.sha256(json.dumps([*losses]).encode() + np.packbits(correct).tobytes()).hexdigest()


def write_outcome(file: BinaryIO, outcome: Outcome, **more: np.ndarray) -> None:
    """Write the arrays of an outcome, and the further arrays `more`, as ``.npz``."""
    arrays = {declared.name: getattr(outcome, declared.name) for declared in fields(outcome)}
    np.savez_compressed(file, **arrays, **more)  # type: ignore[arg-type]


def read_outcome(file: Path | BinaryIO) -> Outcome:
    """Read an outcome, without unpickling.

    Raises:
        DataError: the file cannot be read, is damaged, or lacks an array.
    """
    try:
        with np.load(file, allow_pickle=False) as stored:
            return Outcome(**{declared.name: stored[declared.name] for declared in fields(Outcome)})
    except Exception as error:  # a damaged or forged file can raise anything
        raise DataError(f"its predictions cannot be read ({type(error).__name__})") from error
