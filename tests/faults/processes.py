"""Real processes, to be killed, which are heard until they say something; and a server that says nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path

from conftest import TINY
from preloaded import Process, shared


def start(command: Sequence[str], place: Path) -> Process:
    if not (place / "tiny.py").exists():
        (place / "tiny.py").write_text(TINY)
    return shared().start(command, place, {**os.environ, "OMP_NUM_THREADS": "1"})


def harness(place: Path, *arguments: str) -> Process:
    return start(["-m", "harness", *arguments], place)


def until(process: Process, text: str, times: int = 1) -> str:
    """Read what a process prints until `text` has come so often."""
    seen = ""
    while seen.count(text) < times:
        line = process.stdout.readline()
        assert line, f"it ended before it said {text}:\n{seen}"
        seen += line
    return seen


class Silent:
    """A server that takes a connection and never answers."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen(64)
        self.uri = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def close(self) -> None:
        self._socket.close()
