"""Launch a child, and hold it: a fork of the nursery, or where the system has none a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from harness.confine.child import Order
from harness.confine.nursery import DUMP, KILL
from harness.confine.orders import has_nursery, last_words, python, send_order
from harness.confine.scratch import remove

MOMENT = 0.3
"""Seconds in which a child that is out of time writes where it stands."""


def launch(order: Order) -> Child:
    """Start a child."""
    return _Forked(order) if has_nursery() else _Spawned(order)


class Child(ABC):
    """A child and the pipes to it.

    Attributes:
        request, reply, output: the pipes to its input and from its replies, and from what it prints.
        overdue: the seconds that it might take, if it has taken longer.
    """

    request: BinaryIO
    reply: BinaryIO
    output: BinaryIO
    overdue: float | None = None

    def time_out(self, seconds: float) -> None:
        """Have it write where it stands, and end it: it has taken all its seconds."""
        self.overdue = seconds
        self._dump()
        time.sleep(MOMENT)
        self._kill()

    def ended(self) -> str:
        """Wait until it has ended; return the name of the signal that ended it, or say that it ended by itself."""
        code = self._wait()
        if code is None:
            return f"did not begin, or ended with the one that forks it{last_words()}"
        if code >= 0:
            return f"ended by itself, with code {code}"
        known = {number.value: number.name for number in signal.Signals}
        return known.get(-code, f"signal {-code}")

    def close(self) -> None:
        """End it, if it has not ended; a second time this does nothing."""
        self._kill()
        for file in (self.request, self.reply):
            with contextlib.suppress(OSError):  # what the pipe could not take is not sent
                file.close()

    @abstractmethod
    def _dump(self) -> None: ...

    @abstractmethod
    def _kill(self) -> None: ...

    @abstractmethod
    def _wait(self) -> int | None: ...


class _Forked(Child):
    """A child of the nursery."""

    def __init__(self, order: Order) -> None:
        (theirs_in, ours_in), (ours_out, theirs_out), (ours_printed, theirs_printed) = os.pipe(), os.pipe(), os.pipe()
        self._watch, theirs = socket.socketpair()
        self.request, self.reply = open(ours_in, "wb"), open(ours_out, "rb")  # noqa: SIM115
        self.output = open(ours_printed, "rb", buffering=0)  # noqa: SIM115
        with theirs:
            given = [theirs_in, theirs_out, theirs_printed]
            try:
                module = order.function.partition(":")[0]
                send_order({"import": [module], **asdict(order)}, [*given, theirs.fileno()])
            finally:
                for each in given:
                    os.close(each)

    def _dump(self) -> None:
        self._say(DUMP)

    def _kill(self) -> None:
        self._say(KILL)

    def _say(self, word: bytes) -> None:
        with contextlib.suppress(OSError):  # it has ended
            self._watch.sendall(word)

    def _wait(self) -> int | None:
        with contextlib.suppress(OSError):
            if code := self._watch.recv(16):
                return int(code)
        return None

    def close(self) -> None:
        """End it, if it has not ended."""
        super().close()
        self._watch.close()


class _Spawned(Child):
    """A child that is a new process."""

    def __init__(self, order: Order) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="harness-"))
        pipe = subprocess.PIPE
        self._process = python("child", "run_alone", asdict(order), str(self._folder), stdin=pipe, stdout=pipe)
        self.request, self.reply, self.output = self._process.stdin, self._process.stdout, self._process.stderr

    def _dump(self) -> None:
        if hasattr(signal, "SIGUSR1"):
            self._process.send_signal(signal.SIGUSR1)

    def _kill(self) -> None:
        self._process.kill()

    def _wait(self) -> int:
        return self._process.wait()

    def close(self) -> None:
        """End it, if it has not ended."""
        super().close()
        self._process.wait()
        with contextlib.suppress(OSError):  # a second time, or a system that holds on to it
            remove(self._folder)
