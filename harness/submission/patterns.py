"""How many numbers of the author's own stand in a start: weights that were found at home and brought along.

A number can be brought as a constant, as a literal, or hidden in the structure of the program: in indices, sizes, the
order of its operators. All three are measured for each tensor, on the operators that it depends on.
"""

from __future__ import annotations

import lzma
import math
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from harness.audit import FREE_BITS, bits_of_table
from harness.submission.start import TRUNC_NORMAL, Program, Touched, memory_of, needed, operator_of, replay, run

FORMULA = 16
"""Most numbers of the author's own from which a tensor may be made without all of it being taken for a pattern: from no
more, it follows from a formula."""

LARGEST_SIZE = 784
"""Largest whole number that is taken for a size where a whole tensor is scaled or shifted by it: that of an image."""

FREE_SETTINGS = 60
"""Most different settings of draws, fills and scales of whole tensors that are not counted: two for each fan-in."""

FREE_STRUCTURE = 256
"""Most bytes of compressed structure that are not taken for hidden numbers; every further byte counts as a number."""

FREE_PATTERN_STRUCTURE = 96
"""The same, of the tensors that look alike for every seed; every further bit counts as a number. Sines of positions
have 73."""

PLAIN_STRUCTURE = 40
"""Most bytes of structure of a tensor that is not examined; a layer's weight has 20 to 32."""

REPLAYS = 8
"""Starts that are compared to find the tensors that look alike for every seed."""

ALIKE = 15.0
"""Variance ratio (F) of a tensor's means over `REPLAYS` starts from which it looks alike; 1e-4 by chance for three
values, and rarer for more."""

T = TypeVar("T")

Source = tuple[str, float]
"""One origin of the author's numbers: a constant, by its number, or a literal or a setting, by its value."""


@dataclass(frozen=True)
class Patterns:
    """Numbers of the author's own in a start.

    Attributes:
        patterns: values of each tensor that follow a pattern from home, without its most frequent value.
        formulas: such values of all tensors that follow from a few numbers of the author's, such as sines of positions.
        indices: the same for whole numbers, truth values, and masks of zeros and infinities.
        index_bits: bits of all those tables; up to `FREE_BITS` they are free, here as in the ledger.
        others: 32-bit units of the constants and literals that make other tensors.
        structure: bytes of compressed structure.
        pattern_structure: the same, of the tensors that look alike for every seed.
        extra: 32-bit units that the tensors do not hold themselves: they belong into the ledger, like literals.
    """

    patterns: Mapping[str, int]
    formulas: int
    indices: Mapping[str, int]
    index_bits: int
    others: int
    structure: int
    pattern_structure: int
    extra: int

    @property
    def brought(self) -> int:
        """Numbers brought from home, in all."""
        indices = sum(self.indices.values()) if self.index_bits > FREE_BITS else 0
        hidden = max(0, self.structure - FREE_STRUCTURE, 8 * (self.pattern_structure - FREE_PATTERN_STRUCTURE))
        return sum(self.patterns.values()) + indices + self.others + hidden


def authors_numbers(program: Program) -> Patterns:
    """Measure how many numbers of the author's own stand in a start; torch's generator is left as it was.

    Raises:
        AuditError: the program is malformed or not allowed.
    """
    with torch.random.fork_rng(devices=[]):
        results, touched = run(program)
    state = {name: value["ref"] for name, value in program["state"].items()}
    memory = {name: memory_of(results[number]) for name, number in state.items()}
    cones = {name: needed(touched, [number], [memory[name]], frozenset()) for name, number in state.items()}
    units, by_step = _sources(program, results, touched)
    draws = {index for index, step in enumerate(program["steps"]) if _draws(step[0])}
    shapes = {name: list(results[number].shape) for name, number in state.items()}
    examined = [
        name
        for name, cone in cones.items()
        if _foreground(results[state[name]]) and _structure(program, touched, {name: cone}, shapes) > PLAIN_STRUCTURE
    ]
    drawn = [name for name in examined if not draws.isdisjoint(cones[name])]
    different = set(drawn) - _alike(program, drawn)
    alike = {name: cones[name] for name in examined if name not in different}
    two = _starts(program, 2)
    formulas = 0
    patterns: dict[str, int] = {}
    indices: dict[str, int] = {}
    index_bits = 0
    others: set[Source] = set()
    extra: set[Source] = set()
    for name, number in state.items():
        tensor, cone = results[number], cones[name]
        sources: set[Source] = {("constant", read) for index in cone for read in touched[index].reads}
        sources = sources.union([("constant", number)], *(by_step[index] for index in cone))
        has_numbers = any(source[0] not in ("constant", "scale") or source in units for source in sources)
        sources &= units.keys()
        author = sum(units[source] for source in sources)
        own = tensor.numel() * max(1, math.ceil(tensor.element_size() / 4))
        if author > own or not draws.isdisjoint(cone):
            extra |= sources
        table_bits = bits_of_table(tensor)
        if author > FORMULA:
            (indices if table_bits else patterns)[name] = _foreground(tensor)
            index_bits += table_bits
            continue
        others |= sources
        if has_numbers and not table_bits and _is_ranked_alike(*(start[name] for start in two)):
            formulas += _foreground(tensor)
    counted = [sum(units[source] for source in sources) for sources in (others, extra)]
    every, some = (_structure(program, touched, chosen, shapes) for chosen in (cones, alike))
    return Patterns(patterns, formulas, indices, index_bits, counted[0], every, some, counted[1])


def made_from(program: Program, constants: set[int]) -> list[str]:
    """Return the names of the tensors that are made from one of these constants."""
    with torch.random.fork_rng(devices=[]):
        results, touched = run(program)
    found = []
    for name, value in program["state"].items():
        number = value["ref"]
        cone = needed(touched, [number], [memory_of(results[number])], frozenset())
        if not constants.isdisjoint({number, *(read for index in cone for read in touched[index].reads)}):
            found.append(name)
    return found


def _draws(name: str) -> bool:
    return name == TRUNC_NORMAL or torch.Tag.nondeterministic_seeded in operator_of(name).tags


def _alike(program: Program, names: Sequence[str]) -> set[str]:
    """Return the tensors whose values, or magnitudes, differ more from each other than from seed to seed."""
    if not names:
        return set()
    starts = _starts(program, REPLAYS)
    found = set()
    for name in names:
        values = torch.stack([_reals(start[name]).double().nan_to_num() for start in starts])
        for each in (values, values.abs()):
            spread = REPLAYS * each.mean(0).var() if each.shape[1] > 1 else torch.zeros(())
            if spread > ALIKE * each.var(0).mean():
                found.add(name)
    return found


def _starts(program: Program, count: int) -> list[dict[str, Tensor]]:
    starts = []
    with torch.random.fork_rng(devices=[]):
        for _ in range(count):
            torch.manual_seed(secrets.randbits(63))  # a seed for which no program can be prepared
            starts.append(replay(program))
    return starts


def _is_ranked_alike(first: Tensor, second: Tensor) -> bool:
    """Whether the values of a tensor rank alike in two starts, leaving out the most frequent value.

    The criterion is Spearman's rank correlation (Spearman 1904), which a few large values do not dominate.
    """
    first, second = (_reals(each).double().nan_to_num() for each in (first, second))
    foreground = first != first.mode().values if first.numel() else first.bool()
    if foreground.sum() < 2:
        return False
    ranks = [values[foreground].argsort().argsort().double() for values in (first, second)]
    return bool(torch.corrcoef(torch.stack(ranks))[0, 1].abs() > 0.3)


def _reals(tensor: Tensor) -> Tensor:
    return (torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor).flatten()


def _foreground(tensor: Tensor) -> int:
    """Return how many values differ from the most frequent one."""
    counts = _reals(tensor).unique(return_counts=True)[1]
    return int(counts.sum() - counts.max()) if counts.numel() else 0


def _sources(
    program: Program, results: Sequence[Tensor], touched: Sequence[Touched]
) -> tuple[dict[Source, int], list[set[Source]]]:
    """Return the 32-bit units of each source, and the sources of each step other than constants.

    The numbers of an operator on whole tensors are settings, which are free up to `FREE_SETTINGS`; those of an operator
    on a part of a tensor are not.
    """
    units: dict[Source, int] = {}
    settings: dict[Source, int] = {}
    for number, tensor in enumerate(results[: len(program["constants"])]):
        if tensor.numel() > 1 and not bool((tensor == tensor.flatten()[0]).all()):
            units["constant", number] = tensor.numel() * max(1, math.ceil(tensor.element_size() / 4))
        elif tensor.numel() and not tensor.is_complex() and (written := _written_units(tensor.flatten()[0].item())):
            units["constant", number] = written
    by_step: list[set[Source]] = []
    for step, touches in zip(program["steps"], touched, strict=True):
        targets = [results[number] for number in touches.returns]
        whole = all(map(_is_whole, targets))
        found: set[Source] = set()
        for literal in _literals(step):
            # Bounds come in pairs, and those of a weight and of its bias may differ in the last digit.
            source: Source = (
                (_whole_kind(step[0], literal), float(f"{abs(literal):.9g}")) if whole else ("literal", literal)
            )
            if written := _written_units(literal):
                (settings if whole else units)[source] = written
                found.add(source)
        by_step.append(found)
    if len(settings) > FREE_SETTINGS:
        units.update(settings)
    return units, by_step


def _whole_kind(name: str, literal: float) -> str:
    """Return what a number is in an operator on whole tensors: a scale, which can follow from sizes, or a setting."""
    scales = name.split(".")[1].removesuffix("_") in ("add", "sub", "rsub", "mul", "div")
    return "scale" if scales and float(literal).is_integer() and abs(literal) <= LARGEST_SIZE else "setting"


def _is_whole(tensor: Tensor) -> bool:
    return tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()


def _written_units(number: float) -> int:
    """Return the 32-bit units of a number in the code: two if it has more than nine significant digits."""
    if number in (-1, 0, 1) or not math.isfinite(number):
        return 0
    return 1 if float(f"{number:.9g}") == number else 2


def _literals(step: Sequence[Any]) -> Iterator[float]:
    """Yield the numbers of a step that are not structure, such as sizes and indices."""
    for kind, value in _arguments(step):
        if any(part in kind for part in ("number", "float", "complex", "Tensor")):
            for each in _leaves(value):
                if isinstance(each, (int, float)) and not isinstance(each, bool):
                    yield each


def _arguments(step: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Yield the type in the schema and the plain value of each argument."""
    name, args, kwargs, _ = step
    if name == TRUNC_NORMAL:
        yield from zip(("Tensor", *["float"] * 4), args, strict=True)
        return
    schema = operator_of(name)._schema.arguments
    given = dict(zip((argument.name for argument in schema), args, strict=False)) | kwargs
    yield from ((str(argument.real_type), given[argument.name]) for argument in schema if argument.name in given)


def _leaves(value: Any) -> Iterator[Any]:
    """Yield the parts of a plain value that are no references."""
    if isinstance(value, dict):
        yield from _leaves([each for kind, each in value.items() if kind != "ref"])
    elif isinstance(value, list):
        for each in value:
            yield from _leaves(each)
    else:
        yield value


def _structure(
    program: Program,
    touched: Sequence[Touched],
    cones: Mapping[str, Sequence[int]],
    shapes: Mapping[str, list[int]],
) -> int:
    """Return the bytes of the compressed structure of tensors: numbers can be hidden in indices and in an order."""
    text = _Text(program, touched)
    written = b"".join(text.of(cone, shapes[name]) for name, cone in cones.items())
    if not written:
        return 0
    return len(lzma.compress(written, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA1, "dict_size": 2**20}]))


class _Text:
    """Writes steps as bytes in which whatever follows from the steps before, or from the shape, looks the same.

    Integers are differences from the last at the same place; a reference, or a value that is no integer, is how many
    others were used since it was.
    """

    def __init__(self, program: Program, touched: Sequence[Touched]) -> None:
        self._program = program
        self._touched = touched
        self._written: set[int] = set()
        self._last: dict[tuple[str, int], int] = {}
        self._recent: list[str] = []

    def of(self, cone: Sequence[int], shape: list[int]) -> bytes:
        """Return the text of the steps that make a tensor of this shape, without those written before."""
        written = bytearray(b"\xff")
        seen: list[int] = []
        for index in cone:
            step = self._program["steps"][index]
            if index not in self._written:
                written += _rank(step[0], self._recent)
                for place, (_, value) in enumerate(_arguments(step)):
                    written += self._value((step[0], place), value, shape, seen)
            for number in self._touched[index].returns:
                seen.insert(0, number)
        self._written.update(cone)
        return bytes(written)

    def _value(self, place: tuple[str, int], value: Any, shape: list[int], seen: list[int]) -> bytes:
        if value == shape:
            return b"\xfe"
        if isinstance(value, list):
            places = ((place[0], 64 * (place[1] + 1) + index % 64) for index in range(len(value)))
            return b"\xfd" + b"".join(self._value(*each, shape, seen) for each in zip(places, value, strict=True))
        if isinstance(value, dict) and set(value) == {"ref"}:
            return b"\xfc" + _rank(value["ref"], seen)
        if type(value) is not int:
            return _rank(repr(value), self._recent)
        if value in shape:
            return b"\xfb" + _number(shape.index(value))
        step = value - self._last.get(place, 0)
        self._last[place] = value
        return _number(step)


def _rank(value: T, recent: list[T]) -> bytes:
    """Return how many others were used since `value` was, and note its use."""
    rank = recent.index(value) if value in recent else len(recent)
    del recent[rank : rank + 1]
    recent.insert(0, value)
    return _number(rank)


def _number(value: int) -> bytes:
    """Return a small whole number as one byte, and a larger one as more."""
    folded = 2 * abs(value) + (value < 0)
    return bytes([folded]) if folded < 200 else b"\xfa" + folded.to_bytes(9, "little").rstrip(b"\0") + b"\0"
