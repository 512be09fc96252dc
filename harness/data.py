"""From a dataset's name to verified images and labels in memory.

Two kinds of dataset: IDX files in the layout torchvision's dataset classes use, every file held
against a SHA-256 written here, and ``digits``, the 8x8 digits inside scikit-learn, resized to 28x28.
Images are uint8 tensors, resident on the training device; nothing is decoded while training.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import http.client
import os
import socket
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.errors import DataError, UsageError, did_you_mean
from harness.spec import HeldOut

SIDE = 28
"""Height and width of every image, in pixels."""

CONNECT_SECONDS = 10
"""How long a download may wait for a server to answer."""


@dataclass(frozen=True, eq=False)
class Split:
    """Images (N, 28, 28) uint8 and their labels (N,) int64."""

    images: Tensor
    labels: Tensor

    def at(self, positions: Tensor) -> Split:
        """Return the images and labels at `positions` (K,) int64."""
        return Split(self.images[positions], self.labels[positions])

    def to(self, device: torch.device) -> Split:
        """Return the split with both tensors on `device`."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images to train on and images held out to score on, with what identifies and normalises them.

    Attributes:
        digest: SHA-256 over the verified contents.
        mean: mean pixel of the training images, black 0 and white 1.
        std: standard deviation, likewise.
        is_benchmark: whether the budget's target accuracy applies to it.
        held_out: the test set; in a study, a part of the training set.
    """

    name: str
    digest: str
    mean: float
    std: float
    is_benchmark: bool
    train: Split
    held_out: Split

    def to(self, device: torch.device) -> Dataset:
        """Return the dataset with both splits on `device`."""
        return replace(self, train=self.train.to(device), held_out=self.held_out.to(device))

    def normalise(self, images: Tensor) -> Tensor:
        """Map floats, black 0 and white 1, to zero mean and unit variance."""
        return (images - self.mean) / self.std


def to_float(images: Tensor) -> Tensor:
    """Map (N, 28, 28) uint8 to (N, 1, 28, 28) float32, black 0 and white 1."""
    return images.unsqueeze(1).float().div_(255)


@dataclass(frozen=True)
class IdxFiles:
    """Where torchvision keeps a dataset of IDX files, and the SHA-256 of each file, uncompressed.

    Attributes:
        torchvision_class: name of the class in ``torchvision.datasets``; also the folder's name.
        sha256: file name to hash, in the order train images, train labels, test images, test labels.
        validation: images of the training set that a study holds out.
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
"""Another 28x28 set is one more entry."""

DIGITS_SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
"""SHA-256 of scikit-learn's 1,797 8x8 digits: images as uint8 in C order, then labels as uint8."""

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
                legal=f"Legal: auto, {', '.join(NAMES)}.",
                mend=did_you_mean(name, NAMES),
            )
        return name, ""
    try:
        _fetch_idx(IDX_DATASETS["mnist"], folder())
    except DataError as error:
        return "digits", error.wrong
    return "mnist", ""


class DamagedError(DataError):
    """A data file whose contents are not what they should be."""


def folder() -> Path:
    """Return where datasets are kept: ``$HARNESS_DATA``, else ``data/``."""
    return Path(os.environ.get("HARNESS_DATA") or "data")


def whereabouts(name: str) -> str:
    """Say where a dataset would come from, without loading or downloading it."""
    if name not in IDX_DATASETS:
        return "inside scikit-learn: always there"
    files = IDX_DATASETS[name]
    missing = _missing(files, folder())
    place = folder() / files.torchvision_class / "raw"
    lacks = f"{', '.join(missing)} not" if len(missing) < len(files.sha256) else "not"
    return f"{lacks} in {place}; would be downloaded" if missing else f"in {place}"


def damaged(name: str) -> list[Path]:
    """Return the files of a dataset that are there and not what they should be."""
    found = []
    for file, expected in IDX_DATASETS[name].sha256.items() if name in IDX_DATASETS else ():
        place = folder() / IDX_DATASETS[name].torchvision_class / "raw" / file
        if _place(place).exists():
            try:
                _read_verified(place, expected)
            except DamagedError:
                found.append(_place(place))
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
    _fetch_idx(known, folder())
    needed = [*known.sha256.items()][: 4 if held_out == "test" else 2]
    raw = Path(known.torchvision_class) / "raw"
    return {
        str(_zipped(raw / file)): gzip.compress(_read_verified(folder() / raw / file, expected))
        for file, expected in needed
    }


def are_here(paths: Iterable[str]) -> bool:
    """Whether all of these files, as `files` calls them, are on this machine, zipped or not."""
    places = [folder() / path for path in paths]
    return all(place.exists() or place.with_suffix("").exists() for place in places)


@functools.lru_cache(maxsize=4)
def _load(name: str, held_out: HeldOut, root: Path) -> Dataset:
    if name == "digits":
        return _load_digits(held_out)
    return _load_idx(name, IDX_DATASETS[name], held_out, root)


def _validation(train: Split, size: int) -> tuple[Split, Split]:
    """Split training images into those a study trains on and `size` that it scores on."""
    labels = train.labels.numpy()
    chosen = torch.from_numpy(stratified(labels, size))
    rest = torch.from_numpy(np.setdiff1d(np.arange(len(labels)), chosen))
    return train.at(rest), train.at(chosen)


# --- IDX files ------------------------------------------------------------------------------------------


def _load_idx(name: str, files: IdxFiles, held_out: HeldOut, root: Path) -> Dataset:
    _fetch_idx(files, root)
    places = [root / files.torchvision_class / "raw" / file for file in files.sha256]
    if held_out == "test":
        train, scored = _read_split(places[:2], files), _read_split(places[2:], files)
    else:
        train, scored = _validation(_read_split(places[:2], files), files.validation)
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
    images, labels = (_parse_idx(_read_verified(place, files.sha256[place.name])) for place in places)
    return Split(torch.from_numpy(images), torch.from_numpy(labels).long())


def _read_verified(file: Path, expected: str) -> bytes:
    contents = _read(file)
    found = hashlib.sha256(contents).hexdigest()
    if found != expected:
        raise DamagedError(
            f"{_place(file)} is not the original file: the SHA-256 of its contents is {found}.",
            legal=f"It should be {expected}.",
            mend="Delete that file and run again to download it, or copy it from a good source.",
        )
    return contents


def _read(file: Path) -> bytes:
    """Return a file's bytes, or those of its ``.gz`` beside it."""
    place = _place(file)
    try:
        contents = place.read_bytes()
        return contents if place == file else gzip.decompress(contents)
    except (OSError, EOFError, zlib.error) as error:
        raise DamagedError(
            f"{place} cannot be read: {error}.",
            mend="Delete that file and run again to download it, or copy it from a good source.",
        ) from error


def _place(file: Path) -> Path:
    return file if file.exists() else _zipped(file)


def _zipped(file: Path) -> Path:
    return file.with_name(file.name + ".gz")


def _parse_idx(contents: bytes) -> np.ndarray:
    """Parse an IDX file of unsigned bytes: two zeros, type 8, number of axes, big-endian sizes, data."""
    axes = contents[3]
    shape = np.frombuffer(contents, ">u4", axes, offset=4)
    return np.frombuffer(contents, np.uint8, offset=4 + 4 * axes).reshape(shape.astype(int)).copy()


def _missing(files: IdxFiles, root: Path) -> list[str]:
    raw = root / files.torchvision_class / "raw"
    try:
        return [file for file in files.sha256 if not (raw / file).exists() and not _zipped(raw / file).exists()]
    except OSError as error:  # a folder that may not be entered, a name too long
        raise DataError(
            f"{raw} cannot be looked into: {error.strerror}.",
            mend="Set HARNESS_DATA to a folder that holds MNIST/raw/ and that you may read.",
        ) from error


def _fetch_idx(files: IdxFiles, root: Path) -> None:
    """Download what is missing, through torchvision's own sources.

    Files are fetched beside their place and moved in whole, so that neither a broken download nor a
    second process at the same work leaves half a file.
    """
    raw = root / files.torchvision_class / "raw"
    missing = _missing(files, root)
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
            legal=f"Expected: {raw}/ with {', '.join(files.sha256)} (or each with .gz).",
            mend="Connect to the internet, or set HARNESS_DATA to a folder that holds MNIST/raw/.",
        ) from error


@contextlib.contextmanager
def _connect_timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(CONNECT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def are_test_labels(name: str, labels: np.ndarray) -> bool:
    """Whether (N,) `labels` are those of a dataset's test set, in its order; asks for no IDX file."""
    if name not in IDX_DATASETS:
        return np.array_equal(load(name).held_out.labels.numpy(), labels)
    header = bytes([0, 0, 8, 1]) + len(labels).to_bytes(4, "big")
    *_, expected = IDX_DATASETS[name].sha256.values()
    return hashlib.sha256(header + labels.astype(np.uint8).tobytes()).hexdigest() == expected


def digest(name: str) -> str:
    """Return the digest of a dataset's verified contents, without reading them."""
    if name not in IDX_DATASETS:
        return DIGITS_SHA256
    return hashlib.sha256("".join(IDX_DATASETS[name].sha256.values()).encode()).hexdigest()


# --- digits ---------------------------------------------------------------------------------------------


def _load_digits(held_out: HeldOut) -> Dataset:
    from sklearn.datasets import load_digits  # deferred: a second that MNIST runs never need

    bunch = load_digits()
    small, labels = bunch.images.astype(np.uint8), bunch.target.astype(np.uint8)
    found = hashlib.sha256(small.tobytes() + labels.tobytes()).hexdigest()
    if found != DIGITS_SHA256:
        raise DamagedError(
            f"scikit-learn's digits are not the original ones: their SHA-256 is {found}.",
            legal=f"It should be {DIGITS_SHA256}.",
            mend="Reinstall scikit-learn.",
        )
    images = _resize_digits(small)
    test = stratified(labels, 360)
    rest = np.setdiff1d(np.arange(len(labels)), test)
    whole = Split(torch.from_numpy(images), torch.from_numpy(labels).long())
    train, scored = whole.at(torch.from_numpy(rest)), whole.at(torch.from_numpy(test))
    if held_out == "validation":
        train, scored = _validation(train, 240)
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


def stratified(labels: np.ndarray, size: int) -> np.ndarray:
    """Choose `size` positions in which every class has its share, to within one; always the same ones.

    Images are shuffled by a fixed seed, sorted by class and taken at even distances.
    """
    shuffled = np.random.RandomState(0).permutation(len(labels))  # the one numpy stream frozen for good
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    return np.sort(by_class[(2 * np.arange(size) + 1) * len(labels) // (2 * size)])
