"""How much is written in the structure of a start: numbers can be hidden in indices, in sizes, and in an order.

The steps that make tensors are written as bytes in which whatever follows from the steps before, or from a tensor's
shape, looks the same, and compressed. What remains is what the author chose.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from harness.audit import as_bytes, compressed, rank
from harness.submission.dependence import Touched
from harness.submission.start import Program
from harness.submission.start_operators import TRUNC_NORMAL, operator_of


def compressed_structure(
    program: Program, touched: Sequence[Touched], made: Iterable[tuple[Sequence[int], Sequence[int]]]
) -> int:
    """Return the bytes of the compressed structure of tensors.

    Args:
        program: the start that makes them.
        touched: what each of its steps touches.
        made: for each tensor the steps on which it depends, and its shape.
    """
    text = _Text(program, touched)
    return compressed(b"".join(text.of(steps, [*shape] if 0 not in shape else []) for steps, shape in made))


def arguments_of(step: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Yield the type in the schema and the plain value of each argument of a step."""
    name, args, kwargs, _ = step
    if name == TRUNC_NORMAL:
        yield from zip(("Tensor", *["float"] * 4), args, strict=True)
        return
    schema = operator_of(name)._schema.arguments
    given = dict(zip((argument.name for argument in schema), args, strict=False)) | kwargs
    yield from ((str(argument.real_type), given[argument.name]) for argument in schema if argument.name in given)


class _Text:
    """Writes steps as bytes.

    Integers are differences from the last at the same place; a reference, or a value that is no integer, is how many
    others were used since it was.
    """

    def __init__(self, program: Program, touched: Sequence[Touched]) -> None:
        self._program = program
        self._touched = touched
        self._written: set[int] = set()
        self._last: dict[tuple[str, int], int] = {}
        self._recent: list[str] = []

    def of(self, steps: Sequence[int], shape: list[int]) -> bytes:
        """Return the text of the steps that make a tensor of this shape, without those written before."""
        written = bytearray(b"\xff")
        seen: list[int] = []
        for index in steps:
            step = self._program["steps"][index]
            if index not in self._written:
                written += as_bytes(rank(step[0], self._recent))
                for place, (_, value) in enumerate(arguments_of(step)):
                    written += self._value((step[0], place), value, shape, seen)
            for number in self._touched[index].returns:
                seen.insert(0, number)
        self._written.update(steps)
        return bytes(written)

    def _value(self, place: tuple[str, int], value: Any, shape: list[int], seen: list[int]) -> bytes:
        if value == shape:
            return b"\xfe"
        if isinstance(value, list):
            places = ((place[0], 64 * (place[1] + 1) + index % 64) for index in range(len(value)))
            return b"\xfd" + b"".join(self._value(*each, shape, seen) for each in zip(places, value, strict=True))
        if isinstance(value, dict) and set(value) == {"ref"}:
            return b"\xfc" + as_bytes(rank(value["ref"], seen))
        if type(value) is not int:
            return as_bytes(rank(repr(value), self._recent))
        if value in shape:
            return b"\xfb" + as_bytes(shape.index(value))
        step = value - self._last.get(place, 0)
        self._last[place] = value
        return as_bytes(step)
