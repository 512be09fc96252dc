"""The dataset ``digits``: the 8x8 digits of scikit-learn, resized to 28x28."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import torch

from harness.data.idx import DIGITS_SHA256, DamagedError, digest
from harness.data.split import SIDE, Dataset, Split, stratified, validation_split
from harness.spec import HeldOut


def load_digits_split(held_out: HeldOut) -> Dataset:
    """Return the verified dataset ``digits``.

    Raises:
        DamagedError: scikit-learn's images or labels are not the original ones.
    """
    small, labels = _read_digits()
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


def _read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return images (N, 8, 8) and labels (N,), both uint8.

    They are read from scikit-learn's file: to import scikit-learn takes every process that trains a second.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")
    rows = np.loadtxt(Path(package.origin).parent / "datasets/data/digits.csv.gz", np.uint8, delimiter=",")
    return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1]


def _resize_digits(small: np.ndarray) -> np.ndarray:
    """Resize (N, 8, 8) in 0..16 to (N, 28, 28) in 0..255, bilinearly, in integers: the same bits on every machine.

    The centre of pixel i of 28 is at (4 i - 5) / 14 on the grid of 8, so every weight is a multiple of 1/14.
    """
    position = np.clip(4 * np.arange(SIDE) - 5, 0, 7 * 14)
    left = np.minimum(position // 14, 6)
    weights = np.zeros((SIDE, 8), dtype=np.int64)
    weights[np.arange(SIDE), left + 1] = position - 14 * left
    weights[np.arange(SIDE), left] = 14 - (position - 14 * left)
    sums = weights @ small.astype(np.int64) @ weights.T
    whole = 14 * 14 * 16
    return ((2 * 255 * sums + whole) // (2 * whole)).astype(np.uint8)
