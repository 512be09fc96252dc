"""How many bytes are left of what an author wrote, once whatever recurs is written short and compressed."""

from __future__ import annotations

import lzma
from typing import TypeVar

T = TypeVar("T")


def compressed(text: bytes) -> int:
    """Return the bytes of a text, compressed: a bound on what its author could hide in it."""
    if not text:
        return 0
    return len(lzma.compress(text, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA1, "dict_size": 2**20}]))


def rank(value: T, recent: list[T]) -> int:
    """Return how many others were used since `value` was, and note its use."""
    found = recent.index(value) if value in recent else len(recent)
    del recent[found : found + 1]
    recent.insert(0, value)
    return found


def as_bytes(value: int) -> bytes:
    """Return a small whole number as one byte, and a larger one as more."""
    folded = 2 * abs(value) + (value < 0)
    return bytes([folded]) if folded < 200 else b"\xfa" + folded.to_bytes(9, "little").rstrip(b"\0") + b"\0"
