"""Real processes, to be killed, which are heard until they say something; and a server that says nothing."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from conftest import TINY, is_alive
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


def descendants(pid: int) -> list[int]:
    """Return the processes that a process began, and those that they began."""
    found = [int(line) for line in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return found + [deeper for child in found for deeper in descendants(child)]


def kill(process: Process) -> None:
    """Kill a process, and return when those that it started are gone, too."""
    begun = descendants(process.pid)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 60
    while any(map(is_alive, begun)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Silent:
    """A server that takes a connection and never answers."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen(64)
        self.uri = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def close(self) -> None:
        self._socket.close()
