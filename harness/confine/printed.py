"""What a child prints: its output, and the stack that Python writes when it crashes or when its time is over."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from typing import BinaryIO

from harness.errors import printable

MOST_PRINTED = 4_000
"""Characters that are shown of what a child prints; of longer output the last."""

END_SECONDS = 10.0
"""Seconds that a child which was killed may take to be gone, on a machine that is busy."""

_STACK = re.compile(r"^(?=Fatal Python error: |(?:Current t|T)hread 0x)", re.MULTILINE)
"""Where the stack begins."""


class Printed:
    """What a child prints, read as it comes so that it never waits; the last of it is kept."""

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe, self._kept, self._left_out = pipe, b"", 0
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._pipe, contextlib.suppress(OSError):
            while more := os.read(self._pipe.fileno(), 1 << 16):
                whole = self._kept + more
                self._kept = whole[-4 * MOST_PRINTED :]  # a character has up to four bytes
                self._left_out += len(whole) - len(self._kept)

    def text(self) -> str:
        """Return it, when the child has ended, without what a terminal could act on."""
        self._thread.join(END_SECONDS)
        text = self._kept.decode("utf-8", "replace")
        if self._left_out or len(text) > MOST_PRINTED:
            text = f"(the end of what was printed)\n{text[-MOST_PRINTED:]}"
        return "\n".join(printable(line.expandtabs()) for line in text.splitlines())

    def place_in(self, path: str) -> str:
        """Return `` at path:line`` of the innermost line of a file on the stack, if there is one."""
        stack = _STACK.split(self.text(), 1)[-1]
        line = re.search(rf'File "{re.escape(path)}", line (\d+)', stack)
        return f" at {path}:{line[1]}" if line else ""

    def show(self) -> None:
        """Print it to stderr, without the stack."""
        if text := _STACK.split(self.text(), 1)[0].rstrip():
            with contextlib.suppress(OSError):  # the reader may be gone
                print(text, file=sys.stderr, flush=True)
