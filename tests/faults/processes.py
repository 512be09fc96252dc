"""Real processes, to be killed, which are heard until they say something; and a server that says nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from conftest import TINY


def start(command: Sequence[str], place: Path) -> subprocess.Popen[str]:
    if not (place / "tiny.py").exists():
        (place / "tiny.py").write_text(TINY)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=place,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )


def harness(place: Path, *arguments: str) -> subprocess.Popen[str]:
    return start(["-m", "harness", *arguments], place)


def until(process: subprocess.Popen[str], text: str, times: int = 1) -> str:
    """Read what a process prints until `text` has come so often."""
    assert process.stdout
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
