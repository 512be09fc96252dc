"""Datasets: find them by name, verify them against a SHA-256, split them, and hold them in memory."""

from harness.data.datasets import NAMES, are_here, are_test_labels, choose, damaged, files, load, whereabouts
from harness.data.digits import load_digits_split
from harness.data.idx import CONNECT_SECONDS, IDX_DATASETS, DamagedError, digest, folder
from harness.data.split import SIDE, Dataset, Split, stratified, to_float

__all__ = [
    "CONNECT_SECONDS",
    "IDX_DATASETS",
    "NAMES",
    "SIDE",
    "DamagedError",
    "Dataset",
    "Split",
    "are_here",
    "are_test_labels",
    "choose",
    "damaged",
    "digest",
    "files",
    "folder",
    "load",
    "load_digits_split",
    "stratified",
    "to_float",
    "whereabouts",
]
