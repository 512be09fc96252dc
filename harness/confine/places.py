"""What a child may read: Python, its installed packages and the system's libraries, without the data in them."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Set
from functools import cache
from pathlib import Path

SYSTEM = (
    *("/nix/store", "/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo"),
    *("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"),
    *("/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu"),
)

DATA = ("sklearn/datasets/data", "sklearn/datasets/images", "sklearn/datasets/tests", "mlxtend/data")
"""Folders of installed packages that hold datasets."""


def python_path(hidden: Iterable[Path]) -> list[str]:
    """Return the entries of this process's `sys.path` that a child keeps.

    Those are the standard library, installed packages, and what neither lies in a hidden folder nor holds one.
    """
    away = [folder.resolve() for folder in hidden]
    kept = []
    for entry in sys.path:
        place = Path(entry or ".").resolve()
        near = any(place.is_relative_to(folder) or folder.is_relative_to(place) for folder in away)
        if place.exists() and (_is_installed(place) or not near):
            kept.append(str(place))
    return kept


def roots(path: Iterable[str]) -> list[Path]:
    """Return the files and folders below which lies all that a child may read.

    Args:
        path: its `sys.path`.
    """
    return [place for name in (*path, *_libraries(), *SYSTEM) if (place := Path(name).resolve()).exists()]


def data_in(path: Iterable[str], hidden: Iterable[Path]) -> frozenset[Path]:
    """Return the folders below the roots that a child may not read: hidden ones, datasets, packages not in its path."""
    packages, away = {Path(entry).resolve() for entry in path}, {folder.resolve() for folder in hidden}
    away |= {root / folder for root in packages for folder in DATA}
    away |= {root / name for root in packages for name in ("site-packages", "dist-packages")}
    # A second Python's packages may hold the same data.
    away |= {folder for root in _libraries() for folder in Path(root).resolve().glob("python*")}
    below = roots(path)
    return frozenset(each for each in away - packages if any(each.is_relative_to(root) for root in below))


def readable(path: Iterable[str], away: frozenset[Path]) -> Iterator[tuple[Path, bool]]:
    """Yield the files and folders that a child may read, each standing for all below it.

    With each comes whether files may be read. Where they may not, folders may still be listed, names being no secret:
    an import lists the folders it looks in.

    Args:
        path: its `sys.path`.
        away: what `data_in` returns.
    """
    for root in roots(path):
        yield from _without(root, away)


def _without(folder: Path, away: Set[Path]) -> Iterator[tuple[Path, bool]]:
    """Yield what covers a folder but for some folders in it: a right to read a folder is one to read all below it."""
    inside = {other for other in away if other != folder and other.is_relative_to(folder) and other.exists()}
    yield folder, not inside
    if not inside:
        return
    for entry in os.scandir(folder):
        if Path(entry) not in away:
            yield from _without(Path(entry), inside)


def _is_installed(place: Path) -> bool:
    return place.name in ("site-packages", "dist-packages") or any(place.is_relative_to(each) for each in _PYTHON)


_PYTHON = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")}


@cache
def _libraries() -> list[str]:
    """Return the folders of shared libraries: Python's own and the system's for this kind of machine."""
    kind = sysconfig.get_config_var("MULTIARCH")
    systems = [f"{root}/{kind}" for root in ("/lib", "/usr/lib")] if kind else []
    found = [sysconfig.get_config_var("LIBDIR"), f"{sys.base_prefix}/lib", *systems, "/usr/lib64", "/usr/local/lib64"]
    return [name for name in found if name and os.path.isdir(name)]
