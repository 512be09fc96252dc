"""What the bits of a run depend on besides its job: machine, threads and versions."""

from __future__ import annotations

import os
import platform
import reprlib
import socket
import subprocess
from typing import Any

import torch

from harness import __version__
from harness.errors import UsageError
from harness.journal import MOST_AUTHOR


def describe_environment(device: str) -> dict[str, Any]:
    """Return device, threads, machine and versions, as recorded in journals."""
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "machine": socket.gethostname(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "harness": __version__,
        "git": _git_commit(),
    }


def describe_process() -> dict[str, Any]:
    """Return host and process id of this process, which writes the journal; a worker may do the training."""
    return {"host": socket.gethostname(), "pid": os.getpid()}


def choose_author(given: str | None) -> str:
    """Return the author that runs are recorded with: `given`, else ``HARNESS_AUTHOR``, else an empty text.

    Raises:
        UsageError: a record cannot hold that name.
    """
    author = (os.environ.get("HARNESS_AUTHOR", "") if given is None else given).strip()
    if len(author) > MOST_AUTHOR or not author.isprintable():
        raise UsageError(
            f"{reprlib.repr(author)} cannot be recorded as the author.",
            allowed=f"Allowed: one line of at most {MOST_AUTHOR} printable characters.",
            hint="Shorten --author, or the environment variable HARNESS_AUTHOR.",
        )
    return author


def _git_commit() -> str:
    """Return the commit of the checkout, with ``+`` if files differ from it; empty outside a checkout."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
