"""Arguments of operators as plain JSON values, and back: no text is evaluated, and nothing is unpickled."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import SymInt

from harness.errors import AuditError, HarnessError, printable, ran_out_of_memory

DTYPES = {
    name: getattr(torch, name)
    for name in (
        *("float32", "float64", "float16", "bfloat16", "complex64", "complex128"),
        *("uint8", "int8", "int16", "int32", "int64", "bool"),
    )
}
"""The types that a tensor of a submission may have."""

LAYOUTS = {"strided": torch.strided}

MEMORY_FORMATS = {
    name: getattr(torch, name) for name in ("contiguous_format", "preserve_format", "channels_last", "channels_last_3d")
}

_NAMED = {"dtype": DTYPES, "layout": LAYOUTS, "memory_format": MEMORY_FORMATS}
_NAMES = {value: (kind, name) for kind, values in _NAMED.items() for name, value in values.items()}

Reference = Callable[[Any], int | None]
"""Maps a value to the number of the operator that made it, or to None if it is not the result of one."""


class NotPlain(ValueError):
    """A value that has no plain form."""


def to_plain(value: Any, reference: Reference) -> Any:
    """Return an argument as a JSON value.

    Numbers that are not finite, complex numbers, types, slices and references become dicts of one entry. Every device
    becomes the CPU: the harness chooses where a network runs.

    Raises:
        NotPlain: it has no such form, as a random generator or a function.
    """
    number = reference(value)
    if number is not None:
        return {"ref": number}
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int) and not isinstance(value, SymInt):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, complex):
        return {"complex": [to_plain(part, reference) for part in (value.real, value.imag)]}
    if isinstance(value, (list, tuple)):
        return [to_plain(each, reference) for each in value]
    if isinstance(value, slice):
        return {"slice": [to_plain(each, reference) for each in (value.start, value.stop, value.step)]}
    if isinstance(value, torch.device):
        return {"device": "cpu"}
    if isinstance(value, (torch.dtype, torch.layout, torch.memory_format)) and value in _NAMES:
        kind, name = _NAMES[value]
        return {kind: name}
    raise NotPlain(f"{type(value).__name__} {value!r:.60}")


def from_plain(value: Any, results: Callable[[int], Any]) -> Any:
    """Return the argument that `to_plain` wrote.

    Args:
        results: maps the number of an operator to its result.

    Raises:
        AuditError: the value is none that `to_plain` writes.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [from_plain(each, results) for each in value]
    if isinstance(value, dict) and len(value) == 1:
        ((kind, content),) = value.items()
        if kind == "ref" and type(content) is int:
            return results(content)
        if kind == "float" and content in ("inf", "-inf", "nan"):
            return float(content)
        if kind == "complex" and isinstance(content, list) and len(content) == 2:
            return complex(*(from_plain(part, results) for part in content))
        if kind == "slice" and isinstance(content, list) and len(content) == 3:
            return slice(*(from_plain(each, results) for each in content))
        if kind == "device" and content == "cpu":
            return torch.device("cpu")
        if kind in _NAMED and isinstance(content, str) and content in _NAMED[kind]:
            return _NAMED[kind][content]
    raise malformed(f"an argument {str(value)[:60]!r}")


def malformed(what: str) -> AuditError:
    """Return the error for a submission whose data are not what the harness writes."""
    return AuditError(
        "submission",
        f"What the file's process handed over is malformed: {what}.",
        allowed="A submission is two graphs, its tensors and its start, as plain data.",
        hint="Remove whatever interferes with the harness's own code.",
    )


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Take whatever is raised where a document is read, replayed, rebuilt or audited for a fault of the document.

    No check foresees all that a forged one may hold. The error stays as the cause, in case the fault is the harness's.

    Raises:
        AuditError: something else than a `HarnessError`, or than a lack of memory, was raised.
    """
    try:
        yield
    except HarnessError:
        raise
    except Exception as error:
        if ran_out_of_memory(error):
            raise
        said = str(error).partition("\n")[0][:200]
        raise malformed(printable(f"it raises {type(error).__name__}: {said}")) from error
