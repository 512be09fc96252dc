"""Images with labels, and the splits used by training, scoring and studies."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

SIDE = 28
"""Height and width of every image, in pixels."""


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
    """Images to train on and images held out for scoring, with their identity and normalisation.

    Attributes:
        name: one of `harness.data.NAMES`.
        digest: SHA-256 that identifies the verified contents.
        mean: mean of the training pixels, black 0 and white 1.
        std: their standard deviation, likewise.
        is_benchmark: whether the budget's target accuracy applies to it.
        train: the training images.
        held_out: the test set or, in a study, a part of the training set.
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
        """Map pixels, black 0 and white 1, to zero mean and unit variance over the training set."""
        return (images - self.mean) / self.std


def to_float(images: Tensor) -> Tensor:
    """Map (N, 28, 28) uint8 to (N, 1, 28, 28) float32, black 0 and white 1."""
    return images.unsqueeze(1).float().div_(255)


def validation_split(train: Split, size: int) -> tuple[Split, Split]:
    """Split training images into those that a study trains on and `size` images that it is scored on."""
    labels = train.labels.numpy()
    chosen = torch.from_numpy(stratified(labels, size))
    rest = torch.from_numpy(np.setdiff1d(np.arange(len(labels)), chosen))
    return train.at(rest), train.at(chosen)


def stratified(labels: np.ndarray, size: int) -> np.ndarray:
    """Return `size` positions in which each class has its share, to within one image; always the same ones.

    Images are shuffled with a fixed seed, sorted by class, and taken at equal distances.

    Args:
        labels: (N,) class of each image.
        size: number of positions, at most N.
    """
    shuffled = np.random.RandomState(0).permutation(len(labels))  # numpy keeps this stream the same for good
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    return np.sort(by_class[(2 * np.arange(size) + 1) * len(labels) // (2 * size)])
