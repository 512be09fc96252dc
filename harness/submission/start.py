"""The start of a network as data: a program of operators that makes its first values, and the check of it.

A plug-in's process hands a start over; nothing in it is trusted. It has

- ``constants``: the tensors that the program reads, as raw bytes;
- ``steps``: lists of an operator's name, its positional and named arguments, and how many tensors it returns;
- ``state``: for each tensor of the network, the result that is its first value.

Results are numbered: constants first, then the tensors that each step returns. A step refers to earlier ones only.
`check_start` reads all of this without running it; `harness.submission.replay` runs it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from harness.errors import AuditError
from harness.submission.plain import DTYPES, malformed
from harness.submission.start_operators import TRUNC_NORMAL, operator_of

Program = Mapping[str, Any]

MOST_STEPS = 20_000
"""Most operators in a start; a transformer of twenty layers has about 1,000."""

MOST_RESULTS = 100_000
"""Most constants and results of steps; a replay keeps them all."""

MOST_BYTES = 2**22
"""Most bytes of all constants together: two hundred for each number of the budget."""

_KINDS: Mapping[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}

_ENUMS = {"ScalarType": "dtype", "Layout": "layout", "MemoryFormat": "memory_format", "Device": "device"}


def check_start(program: object) -> None:
    """Check a start program in full, without running it.

    Raises:
        AuditError: it is malformed (rule ``submission``), or has an operator or sizes that are not allowed (``start``).
    """
    if not isinstance(program, dict) or set(program) != {"constants", "steps", "state"}:
        raise malformed("the start is not constants, steps and state")
    constants, steps, state = program["constants"], program["steps"], program["state"]
    if not (isinstance(constants, list) and isinstance(steps, list) and isinstance(state, dict)):
        raise malformed("the start is not made of lists")
    if len(steps) > MOST_STEPS:
        raise too_many_steps(len(steps))
    if sum(_constant_bytes(constant) for constant in constants) > MOST_BYTES:
        raise AuditError(
            "start",
            "The first values are made from more stored numbers than the harness reads.",
            allowed=f"Allowed: {MOST_BYTES:,} bytes.",
            hint="Draw weights with torch's own functions.",
        )
    known = len(constants)
    for step in steps:
        if not (isinstance(step, list) and len(step) == 4 and isinstance(step[0], str)):
            raise malformed("a step of the start")
        name, args, kwargs, outs = step
        if not (isinstance(args, list) and isinstance(kwargs, dict) and type(outs) is int and 0 <= outs <= 10_000):
            raise malformed(f"a step {name[:60]!r}")
        if name == TRUNC_NORMAL:
            _check_trunc_normal(args, kwargs, known)
        else:
            _check_arguments(name, args, kwargs, known)
        known += outs
    if known > MOST_RESULTS:
        raise AuditError(
            "start",
            f"build makes {known:,} tensors on the way to the first values.",
            allowed=f"Allowed: {MOST_RESULTS:,}.",
            hint="Use few operators on whole tensors instead of many on single numbers.",
        )
    for name, value in state.items():
        if not (isinstance(name, str) and _is_reference(value, known)):
            raise malformed("the state of the start")


def too_many_steps(steps: int) -> AuditError:
    """Return the error for a start of so many operators."""
    return AuditError(
        "start",
        f"build runs {steps:,} operators to make the first values.",
        allowed=f"Allowed: {MOST_STEPS:,}.",
        hint="Use few operators on whole tensors instead of many on single numbers.",
    )


def _constant_bytes(constant: object) -> int:
    if not isinstance(constant, dict) or set(constant) != {"dtype", "shape", "data"}:
        raise malformed("a constant of the start")
    dtype, shape, data = constant["dtype"], constant["shape"], constant["data"]
    if not (isinstance(dtype, str) and dtype in DTYPES and isinstance(data, str)):
        raise malformed("a constant of the start")
    if not (isinstance(shape, list) and len(shape) <= 64 and all(type(n) is int and 0 <= n < 2**32 for n in shape)):
        raise malformed("the shape of a constant")
    size = math.prod(shape) * DTYPES[dtype].itemsize
    if len(data) != (size + 2) // 3 * 4:
        raise malformed("the bytes of a constant")
    return size


def _check_arguments(name: str, args: list[Any], kwargs: dict[str, Any], known: int) -> None:
    schema = {argument.name: argument for argument in operator_of(name)._schema.arguments}
    positional = [argument.name for argument in schema.values() if not argument.kwarg_only]
    if len(args) > len(positional) or set(kwargs) - (set(schema) - set(positional[: len(args)])):
        raise malformed(f"the arguments of {name}")
    for key, value in (*zip(positional, args, strict=False), *kwargs.items()):
        fits = _fits(value, str(schema[key].real_type), known)
        # The CPU pins no memory, and to round to decimals torch computes a power of ten.
        if not fits or (key == "pin_memory" and value) or (key == "decimals" and abs(value) > 30):
            raise malformed(f"the argument {key} of {name}")


def _check_trunc_normal(args: list[Any], kwargs: dict[str, Any], known: int) -> None:
    numbers = args[1:]
    if kwargs or len(args) != 5 or not _is_reference(args[0], known) or not all(_fits(n, "float", 0) for n in numbers):
        raise malformed(f"the arguments of {TRUNC_NORMAL}")
    if any(isinstance(number, dict) or abs(number) > 1e30 for number in numbers):
        raise malformed(f"the numbers of {TRUNC_NORMAL}")
    mean, std, low, high = numbers
    inside = std > 0 and low < high and low - 4 * std < mean < high + 4 * std
    if not (inside and (high - low <= 100 * std or low + std <= mean <= high - std)):
        raise AuditError(
            "start",
            f"trunc_normal_ would draw for ever: mean {mean}, standard deviation {std}, bounds {low} and {high}.",
            allowed="Allowed: a mean at most four standard deviations outside the bounds.",
            hint="Move the bounds to where the values are.",
        )


def _fits(value: Any, kind: str, known: int) -> bool:
    """Whether a plain value can be an argument of this type in a schema."""
    if kind.startswith("Optional["):
        return value is None or _fits(value, kind[9:-1], known)
    if kind.startswith("List["):
        return isinstance(value, list) and all(_fits(each, kind[5:-1], known) for each in value)
    if kind == "Tensor":
        return _is_reference(value, known) or _fits(value, "number", known)  # torch takes a number for most tensors
    if kind in _ENUMS:
        return isinstance(value, dict) and set(value) == {_ENUMS[kind]}
    if kind == "number":
        return type(value) is bool or _fits(value, "float", known) or _fits(value, "complex", known)
    if kind == "complex":
        parts = value.get("complex") if isinstance(value, dict) else None
        return isinstance(parts, list) and len(parts) == 2 and all(_fits(part, "float", known) for part in parts)
    if kind == "float" and isinstance(value, dict):
        return set(value) == {"float"}
    if type(value) is int and abs(value) >= 2**63:
        return False
    return type(value) in _KINDS.get(kind, ()) and not (type(value) is str and len(value) > 20)


def _is_reference(value: object, known: int) -> bool:
    if not isinstance(value, dict) or set(value) != {"ref"}:
        return False
    number = value["ref"]
    return type(number) is int and 0 <= number < known
