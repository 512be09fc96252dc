"""Load datasets by name: verified images and labels in memory.

There are two kinds: IDX files in torchvision's folder layout, each verified against a SHA-256 in `idx`, and
``digits``, the 8x8 digits of scikit-learn resized to 28x28. Images are uint8 tensors that fit on the training
device, so nothing is read or decoded during training.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from harness.data.digits import load_digits_split
from harness.data.idx import (
    IDX_DATASETS,
    DamagedError,
    fetch_idx,
    folder,
    load_idx,
    missing_files,
    place_of,
    read_verified,
    zipped,
)
from harness.data.split import Dataset
from harness.errors import DataError, UsageError, did_you_mean
from harness.spec import HeldOut

NAMES = (*IDX_DATASETS, "digits")


def choose(name: str) -> tuple[str, str]:
    """Resolve ``auto`` to MNIST if it is present or can be downloaded, else to ``digits``.

    If MNIST is present but damaged it is still chosen, and `load` raises.

    Returns:
        The dataset's name, and why it is not MNIST; empty if it is, or if `name` is not ``auto``.

    Raises:
        UsageError: the name is unknown.
    """
    if name != "auto":
        if name not in NAMES:
            raise UsageError(
                f"There is no dataset '{name}'.",
                allowed=f"Allowed: auto, {', '.join(NAMES)}.",
                hint=did_you_mean(name, NAMES),
            )
        return name, ""
    try:
        fetch_idx(IDX_DATASETS["mnist"], folder())
    except DataError as error:
        return "digits", error.message
    return "mnist", ""


def whereabouts(name: str) -> str:
    """Return where a dataset is or would come from, as text, without loading or downloading it."""
    if name not in IDX_DATASETS:
        return "part of scikit-learn: always available"
    files = IDX_DATASETS[name]
    missing = missing_files(files, folder())
    place = folder() / files.torchvision_class / "raw"
    lacks = f"{', '.join(missing)} not" if len(missing) < len(files.sha256) else "not"
    return f"{lacks} in {place}; would be downloaded" if missing else f"in {place}"


def damaged(name: str) -> list[Path]:
    """Return the files of a dataset that exist and are damaged."""
    found = []
    for file, expected in IDX_DATASETS[name].sha256.items() if name in IDX_DATASETS else ():
        place = folder() / IDX_DATASETS[name].torchvision_class / "raw" / file
        if place_of(place).exists():
            try:
                read_verified(place, expected)
            except DamagedError:
                found.append(place_of(place))
    return found


def load(name: str, held_out: HeldOut = "test") -> Dataset:
    """Return a verified dataset on the CPU; it is cached in the process.

    Args:
        name: one of `NAMES`.
        held_out: ``test`` to train on all training images and hold out the test set; ``validation`` to hold out a
            fixed, stratified part of the training images and train on the rest, without loading the test set.

    Raises:
        DataError: it is missing and cannot be downloaded, or one of its files is damaged.
    """
    return _load(name, held_out, folder().absolute())


def files(name: str, held_out: HeldOut) -> dict[str, bytes]:
    """Return the files that `load` reads, gzipped, by their paths under `folder`, to be copied to another machine.

    Raises:
        DataError: a file is missing and cannot be downloaded, or is damaged.
    """
    if name not in IDX_DATASETS:
        return {}
    known = IDX_DATASETS[name]
    fetch_idx(known, folder())
    needed = [*known.sha256.items()][: 4 if held_out == "test" else 2]
    raw = Path(known.torchvision_class) / "raw"
    return {
        str(zipped(raw / file)): gzip.compress(read_verified(folder() / raw / file, expected))
        for file, expected in needed
    }


def are_here(paths: Iterable[str]) -> bool:
    """Whether all files at these paths, as returned by `files`, are on this machine, plain or gzipped."""
    places = [folder() / path for path in paths]
    return all(place.exists() or place.with_suffix("").exists() for place in places)


@functools.lru_cache(maxsize=4)
def _load(name: str, held_out: HeldOut, root: Path) -> Dataset:
    if name == "digits":
        return load_digits_split(held_out)
    return load_idx(name, IDX_DATASETS[name], held_out, root)


def are_test_labels(name: str, labels: np.ndarray) -> bool:
    """Whether (N,) `labels` are those of a dataset's test set, in its order; no IDX file is read."""
    if name not in IDX_DATASETS:
        return np.array_equal(load(name).held_out.labels.numpy(), labels)
    header = bytes([0, 0, 8, 1]) + len(labels).to_bytes(4, "big")
    *_, expected = IDX_DATASETS[name].sha256.values()
    return hashlib.sha256(header + labels.astype(np.uint8).tobytes()).hexdigest() == expected
