"""Remove the folder that a child could write."""

from __future__ import annotations

import itertools
import os
from pathlib import Path


def remove(folder: Path) -> None:
    """Remove a folder, however deep and unreadable what is in it may be: what is below each folder in it moves up.

    Raises:
        OSError: the system does not let it go.
    """
    numbers = itertools.count()
    while entries := [*os.scandir(folder)]:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            os.chmod(entry.path, 0o700)
            for inner in [*os.scandir(entry.path)]:
                if inner.is_dir(follow_symlinks=False):
                    os.chmod(inner.path, 0o700)  # to move a folder, one must be allowed to write it
                    os.rename(inner.path, _free(folder, numbers))
                else:
                    os.unlink(inner.path)
            os.rmdir(entry.path)
    os.rmdir(folder)


def _free(folder: Path, numbers: itertools.count[int]) -> Path:
    """Return a path in a folder that nothing has."""
    return next(path for number in numbers if not os.path.lexists(path := folder / f"moved{number}"))
