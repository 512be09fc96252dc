"""The final test pass of a run, as arrays in a file."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import BinaryIO

import numpy as np

from harness.errors import DataError


@dataclass(frozen=True, eq=False)
class Outcome:
    """The final test pass of a run, all but the logits.

    Attributes:
        answers: (N,) uint8, the class each test image was given.
        labels: (N,) int64.
        hardest: (K,) positions of the most confidently wrong images.
        confidence: (K,) the probability those wrong answers were given with.
        images: (K, 28, 28) uint8, those images.
    """

    answers: np.ndarray
    labels: np.ndarray
    hardest: np.ndarray
    confidence: np.ndarray
    images: np.ndarray


def write_outcome(file: BinaryIO, outcome: Outcome, **more: np.ndarray) -> None:
    """Write an outcome's arrays, and more, as ``.npz``."""
    arrays = {declared.name: getattr(outcome, declared.name) for declared in fields(outcome)}
    np.savez_compressed(file, **arrays, **more)  # type: ignore[arg-type]


def read_outcome(file: Path | BinaryIO) -> Outcome:
    """Read an outcome; never unpickles.

    Raises:
        DataError: it cannot be read, is damaged, or lacks an array.
    """
    try:
        with np.load(file, allow_pickle=False) as stored:
            return Outcome(**{declared.name: stored[declared.name] for declared in fields(Outcome)})
    except Exception as error:  # whatever a file leads to that somebody damaged or made up
        raise DataError(f"its answers cannot be read ({type(error).__name__})") from error
