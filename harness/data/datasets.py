"""From a dataset's name to verified images and labels in memory.

Two kinds of dataset: IDX files in the layout torchvision's dataset classes use, every file held
against a SHA-256 written here, and ``digits``, the 8x8 digits inside scikit-learn, resized to 28x28.
Images are uint8 tensors, resident on the training device; nothing is decoded while training.
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
    """Resolve ``auto``: MNIST where it can be had, else ``digits``.

    MNIST that is there but damaged is never passed over: it is chosen, and `load` refuses it.

    Returns:
        The dataset's name, and why it is not MNIST; empty if it is, or if `name` was not ``auto``.

    Raises:
        UsageError: an unknown name.
    """
    if name != "auto":
        if name not in NAMES:
            raise UsageError(
                f"There is no dataset '{name}'.",
                allowed=f"Legal: auto, {', '.join(NAMES)}.",
                hint=did_you_mean(name, NAMES),
            )
        return name, ""
    try:
        fetch_idx(IDX_DATASETS["mnist"], folder())
    except DataError as error:
        return "digits", error.message
    return "mnist", ""


def whereabouts(name: str) -> str:
    """Say where a dataset would come from, without loading or downloading it."""
    if name not in IDX_DATASETS:
        return "inside scikit-learn: always there"
    files = IDX_DATASETS[name]
    missing = missing_files(files, folder())
    place = folder() / files.torchvision_class / "raw"
    lacks = f"{', '.join(missing)} not" if len(missing) < len(files.sha256) else "not"
    return f"{lacks} in {place}; would be downloaded" if missing else f"in {place}"


def damaged(name: str) -> list[Path]:
    """Return the files of a dataset that are there and not what they should be."""
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
    """Return the dataset called `name`, on the CPU, verified; the second call in a process costs nothing.

    Args:
        held_out: ``test`` for all training images and the test set; ``validation`` for a fixed,
            stratified part of the training images and the rest of them, without loading the test set.

    Raises:
        DataError: it is missing and cannot be downloaded, or a file of it is damaged.
    """
    return _load(name, held_out, folder().absolute())


def files(name: str, held_out: HeldOut) -> dict[str, bytes]:
    """Return what `load` reads, gzipped, by its path under `folder`: enough for a machine that has none of it.

    Raises:
        DataError: it is missing and cannot be downloaded, or cannot be read.
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
    """Whether all of these files, as `files` calls them, are on this machine, zipped or not."""
    places = [folder() / path for path in paths]
    return all(place.exists() or place.with_suffix("").exists() for place in places)


@functools.lru_cache(maxsize=4)
def _load(name: str, held_out: HeldOut, root: Path) -> Dataset:
    if name == "digits":
        return load_digits_split(held_out)
    return load_idx(name, IDX_DATASETS[name], held_out, root)


def are_test_labels(name: str, labels: np.ndarray) -> bool:
    """Whether (N,) `labels` are those of a dataset's test set, in its order; asks for no IDX file."""
    if name not in IDX_DATASETS:
        return np.array_equal(load(name).held_out.labels.numpy(), labels)
    header = bytes([0, 0, 8, 1]) + len(labels).to_bytes(4, "big")
    *_, expected = IDX_DATASETS[name].sha256.values()
    return hashlib.sha256(header + labels.astype(np.uint8).tobytes()).hexdigest() == expected
