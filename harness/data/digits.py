"""``digits``, the 8x8 digits inside scikit-learn, resized to 28x28."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from harness.data.idx import DIGITS_SHA256, DamagedError, digest
from harness.data.split import SIDE, Dataset, Split, stratified, validation_split
from harness.spec import HeldOut


def load_digits_split(held_out: HeldOut) -> Dataset:
    """Return the dataset ``digits``, verified.

    Raises:
        DamagedError: scikit-learn holds other images.
    """
    from sklearn.datasets import load_digits  # deferred: a second that MNIST runs never need

    bunch = load_digits()
    small, labels = bunch.images.astype(np.uint8), bunch.target.astype(np.uint8)
    found = hashlib.sha256(small.tobytes() + labels.tobytes()).hexdigest()
    if found != DIGITS_SHA256:
        raise DamagedError(
            f"scikit-learn's digits are not the original ones: their SHA-256 is {found}.",
            allowed=f"It should be {DIGITS_SHA256}.",
            hint="Reinstall scikit-learn.",
        )
    images = _resize_digits(small)
    test = stratified(labels, 360)
    rest = np.setdiff1d(np.arange(len(labels)), test)
    whole = Split(torch.from_numpy(images), torch.from_numpy(labels).long())
    train, scored = whole.at(torch.from_numpy(rest)), whole.at(torch.from_numpy(test))
    if held_out == "validation":
        train, scored = validation_split(train, 240)
    return Dataset(
        name="digits",
        digest=digest("digits"),
        mean=0.3054,
        std=0.3251,
        is_benchmark=False,
        train=train,
        held_out=scored,
    )


def _resize_digits(small: np.ndarray) -> np.ndarray:
    """Resize (N, 8, 8) in 0..16 to (N, 28, 28) in 0..255, bilinearly and in whole numbers: the same bits anywhere.

    Pixel centre i of 28 lies at (4 i - 5) / 14 of 8, so every weight is a multiple of 1/14.
    """
    position = np.clip(4 * np.arange(SIDE) - 5, 0, 7 * 14)
    left = np.minimum(position // 14, 6)
    weights = np.zeros((SIDE, 8), dtype=np.int64)
    weights[np.arange(SIDE), left + 1] = position - 14 * left
    weights[np.arange(SIDE), left] = 14 - (position - 14 * left)
    sums = weights @ small.astype(np.int64) @ weights.T
    whole = 14 * 14 * 16
    return ((2 * 255 * sums + whole) // (2 * whole)).astype(np.uint8)
