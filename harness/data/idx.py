"""Datasets of IDX files in the folder layout of torchvision: download, verify against a SHA-256, and parse."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import os
import socket
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from harness.data.split import Dataset, Split, validation_split
from harness.errors import DataError
from harness.spec import HeldOut

CONNECT_SECONDS = 10
"""Timeout, in seconds, of each wait for a download server."""


@dataclass(frozen=True)
class IdxFiles:
    """A dataset of IDX files: its folder, the SHA-256 of each uncompressed file, and its normalisation.

    Attributes:
        torchvision_class: name of the class in ``torchvision.datasets``; also the folder's name.
        sha256: hash by file name, in the order training images, training labels, test images, test labels.
        mean, std: mean and standard deviation of the training pixels, black 0 and white 1.
        validation: number of training images that a study holds out.
        is_benchmark: whether the budget's target accuracy applies to it.
    """

    torchvision_class: str
    sha256: Mapping[str, str]
    mean: float
    std: float
    validation: int
    is_benchmark: bool = False


IDX_DATASETS: Mapping[str, IdxFiles] = {
    "mnist": IdxFiles(
        "MNIST",
        {
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
        mean=0.1307,
        std=0.3081,
        validation=10_000,
        is_benchmark=True,
    ),
}
"""To add another dataset of 28x28 images, add an entry."""

DIGITS_SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
"""SHA-256 of scikit-learn's 1,797 8x8 digits: images as uint8 in C order, then labels as uint8."""


class DamagedError(DataError):
    """A data file whose contents differ from the original."""


def folder() -> Path:
    """Return the folder of all datasets: ``$HARNESS_DATA``, else ``data/``."""
    return Path(os.environ.get("HARNESS_DATA") or "data")


def load_idx(name: str, files: IdxFiles, held_out: HeldOut, root: Path) -> Dataset:
    """Return a verified dataset of IDX files under `root`; test files are read only if `held_out` is ``test``.

    Raises:
        DataError: it is missing and cannot be downloaded, or a file is damaged.
    """
    fetch_idx(files, root)
    places = [root / files.torchvision_class / "raw" / file for file in files.sha256]
    if held_out == "test":
        train, scored = _read_split(places[:2], files), _read_split(places[2:], files)
    else:
        train, scored = validation_split(_read_split(places[:2], files), files.validation)
    return Dataset(
        name=name,
        digest=digest(name),
        mean=files.mean,
        std=files.std,
        is_benchmark=files.is_benchmark and held_out == "test",
        train=train,
        held_out=scored,
    )


def _read_split(places: Sequence[Path], files: IdxFiles) -> Split:
    images, labels = (_parse_idx(read_verified(place, files.sha256[place.name])) for place in places)
    return Split(torch.from_numpy(images), torch.from_numpy(labels).long())


def read_verified(file: Path, expected: str) -> bytes:
    """Return the contents of a file or, if it is missing, of its ``.gz``.

    Raises:
        DamagedError: it cannot be read, or the SHA-256 of its contents is not `expected`.
    """
    contents = _read(file)
    found = hashlib.sha256(contents).hexdigest()
    if found != expected:
        raise DamagedError(
            f"{place_of(file)} is not the original file: the SHA-256 of its contents is {found}.",
            allowed=f"It should be {expected}.",
            hint="Delete that file and run again to download it, or copy it from a good source.",
        )
    return contents


def _read(file: Path) -> bytes:
    """Return the contents of a file or, if it is missing, of its ``.gz``."""
    place = place_of(file)
    try:
        contents = place.read_bytes()
        return contents if place == file else gzip.decompress(contents)
    except (OSError, EOFError, zlib.error) as error:
        raise DamagedError(
            f"{place} cannot be read: {error}.",
            hint="Delete that file and run again to download it, or copy it from a good source.",
        ) from error


def place_of(file: Path) -> Path:
    """Return the file or, if it is missing, the path of its ``.gz``."""
    return file if file.exists() else zipped(file)


def zipped(file: Path) -> Path:
    """Return the path of a file's ``.gz``."""
    return file.with_name(file.name + ".gz")


def _parse_idx(contents: bytes) -> np.ndarray:
    """Parse an IDX file of unsigned bytes: two zeros, type 8, number of axes, big-endian sizes, data."""
    axes = contents[3]
    shape = np.frombuffer(contents, ">u4", axes, offset=4)
    return np.frombuffer(contents, np.uint8, offset=4 + 4 * axes).reshape(shape.astype(int)).copy()


def missing_files(files: IdxFiles, root: Path) -> list[str]:
    """Return the names of files that are not under `root`, neither plain nor gzipped.

    Raises:
        DataError: the folder cannot be read.
    """
    raw = root / files.torchvision_class / "raw"
    try:
        return [file for file in files.sha256 if not (raw / file).exists() and not zipped(raw / file).exists()]
    except OSError as error:  # no permission, or a name that is too long
        raise DataError(
            f"{raw} cannot be read: {error.strerror}.",
            hint="Set HARNESS_DATA to a folder that contains MNIST/raw/ and that you may read.",
        ) from error


def fetch_idx(files: IdxFiles, root: Path) -> None:
    """Download missing files from torchvision's sources.

    Files are downloaded to a temporary folder and then moved, so that neither an interrupted download nor a second
    process that downloads at the same time leaves an incomplete file.

    Raises:
        DataError: they cannot be downloaded or written.
    """
    raw = root / files.torchvision_class / "raw"
    missing = missing_files(files, root)
    if not missing:
        return
    from torchvision import datasets  # deferred: 1.4 s that only a download needs

    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix="download-") as beside, _connect_timeout():
            with contextlib.redirect_stdout(None):
                getattr(datasets, files.torchvision_class)(beside, download=True)
            raw.mkdir(parents=True, exist_ok=True)
            for file in missing:
                os.replace(Path(beside) / files.torchvision_class / "raw" / file, raw / file)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        reason = str(error).strip().rpartition("\n")[2]
        raise DataError(
            f"{files.torchvision_class} is not in {root} and could not be downloaded ({reason}).",
            allowed=f"Expected: {raw}/ with {', '.join(files.sha256)} (or each with .gz).",
            hint="Connect to the internet, or set HARNESS_DATA to a folder that contains MNIST/raw/.",
        ) from error


@contextlib.contextmanager
def _connect_timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(CONNECT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def digest(name: str) -> str:
    """Return the digest that identifies a dataset's contents, without reading them."""
    if name not in IDX_DATASETS:
        return DIGITS_SHA256
    return hashlib.sha256("".join(IDX_DATASETS[name].sha256.values()).encode()).hexdigest()
