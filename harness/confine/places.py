"""What a child may read: Python, its installed packages and the system's libraries, without the data in them."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
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


def readable(path: Sequence[str], hidden: Iterable[Path]) -> Iterator[tuple[Path, bool]]:
    """Yield the files and folders that a child may read, each standing for all below it.

    With each comes whether files may be read. Where they may not, folders may still be listed, names being no secret:
    an import lists the folders it looks in.

    Args:
        path: its `sys.path`.
        hidden: folders that it may not read, wherever they lie.
    """
    roots = [Path(entry).resolve() for entry in path]
    away = {folder.resolve() for folder in hidden} | {root / folder for root in roots for folder in DATA}
    for root in roots:
        others = {folder for name in ("site-packages", "dist-packages") if (folder := root / name) not in roots}
        yield from _without(root, away | others)
    for folder in {Path(place).resolve() for place in _libraries()}:
        # A second Python's packages may hold the same data.
        yield from _without(folder, away | {*folder.glob("python*")})
    yield from ((place, True) for name in SYSTEM if (place := Path(name).resolve()).exists())


def _without(folder: Path, away: set[Path]) -> Iterator[tuple[Path, bool]]:
    """Yield what covers a folder but for some folders in it: whoever may read a folder may read all below it."""
    inside = {other for other in away if other != folder and other.is_relative_to(folder) and other.exists()}
    yield folder, not inside
    if not inside:
        return
    for entry in os.scandir(folder):
        if Path(entry) not in inside:
            yield from _without(Path(entry), inside)


def _is_installed(place: Path) -> bool:
    python = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return any(place.is_relative_to(folder) for folder in python) or place.name in ("site-packages", "dist-packages")


def _libraries() -> list[str]:
    """Return the folders of shared libraries: Python's own and the system's for this kind of machine."""
    kind = sysconfig.get_config_var("MULTIARCH")
    systems = [f"{root}/{kind}" for root in ("/lib", "/usr/lib")] if kind else []
    found = [sysconfig.get_config_var("LIBDIR"), f"{sys.base_prefix}/lib", *systems, "/usr/lib64", "/usr/local/lib64"]
    return [name for name in found if name and os.path.isdir(name)]
