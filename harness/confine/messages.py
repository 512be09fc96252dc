"""Messages between a child and its caller: JSON values as UTF-8, each after its length.

The child trusts its caller. The caller trusts nothing: `received` bounds a message, and refuses what no honest child
sends.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, BinaryIO

SIZE = 8
"""Bytes before each message that hold its length."""

MOST_BYTES = 32 << 20
"""Bytes in the longest message that the caller reads; parsed, it can take twenty times as many."""

GARBAGE = "wrote something else into the harness's pipe"


class Died(Exception):
    """The child said nothing more, or nothing that has a meaning; the reason is empty where its end tells it."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


def text_of(message: Any) -> bytes:
    """Return a JSON value as text."""
    return json.dumps(message, ensure_ascii=False).encode("utf-8", "replace")


def send(file: BinaryIO, text: bytes) -> None:
    """Send a message."""
    file.write(len(text).to_bytes(SIZE) + text)
    file.flush()


def receive(file: BinaryIO) -> Any:
    """Return the next message of a process that is trusted.

    Raises:
        EOFError: the other end is closed.
    """
    text = file.read(size := int.from_bytes(file.read(SIZE)))
    if not text or len(text) < size:
        raise EOFError("the other process closed the pipe")
    return json.loads(text)


def received(file: BinaryIO) -> tuple[str, Any]:
    """Return the kind of the next message of a child, and what it holds.

    Strings hold no half characters (lone surrogates), which no file takes, and numbers are finite.

    Raises:
        Died: there is none, or it is garbage.
    """
    try:
        size = file.read(SIZE)
        if len(size) < SIZE:
            raise Died
        if (length := int.from_bytes(size)) > MOST_BYTES:
            raise Died(f"handed over more than {MOST_BYTES >> 20} MiB")
        text = file.read(length)
    except OSError:
        raise Died from None
    if len(text) < length:
        raise Died
    try:
        message = json.loads(text.decode(), parse_constant=_refuse, parse_float=_finite)
        ((kind, value),) = message.items()
    except (ValueError, AttributeError, RecursionError, MemoryError):
        raise Died(GARBAGE) from None
    if _HALF_CHARACTER.search(text):
        raise Died(GARBAGE)
    return kind, value


_HALF_CHARACTER = re.compile(rb"(?<!\\)(?:\\\\)*\\u[dD][89a-fA-F]")
"""An escaped surrogate; `text_of` writes none, and a whole character outside the first plane as it is."""


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def _finite(number: str) -> float:
    value = float(number)
    return value if math.isfinite(value) else _refuse(number)
