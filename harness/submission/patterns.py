"""How many numbers of the author's own stand in a start: weights that were found elsewhere and brought along.

A number can be brought as a constant, as a literal, or hidden in the structure of the program: in indices, sizes, the
order of its operators. All three are measured for each tensor, on the operators that it depends on.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from harness.audit import FREE_BITS, bits_of_table, own_units, written_units
from harness.submission.dependence import Touched, memory_of, needed
from harness.submission.replay import replay, run
from harness.submission.start import Program
from harness.submission.start_operators import draws
from harness.submission.structure import arguments_of, compressed_structure

FORMULA = 16
"""Most numbers of the author's own from which a tensor may be made without all of it being taken for a pattern: from no
more, it follows from a formula."""

UNITS_GIVEN = 2
"""32-bit units in which a number may be given that a tensor then holds in one: numpy gives it in two."""

LARGEST_SIZE = 784
"""Largest whole number that is taken for a size where a whole tensor is scaled or shifted by it: that of an image."""

FREE_SETTINGS = 60
"""Most different settings of draws, fills and scales of whole tensors that are not counted: two for each fan-in."""

FREE_ODD_SETTINGS = 10
"""Most of them that neither are short decimals nor follow from sizes, and are not counted: others hide 53 bits each."""

SHORT = 4
"""Most significant digits of a short decimal, such as a standard deviation of 0.02."""

LARGEST_RATIO = (1_000, 1_000_000)
"""Largest numerator and denominator of the square of a setting that follows from sizes, such as 6 / (fan-in + fan-out):
30 bits."""

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

Source = tuple[str, float]
"""One origin of the author's numbers: a constant, by its number, or a literal or a setting, by its value."""


@dataclass(frozen=True)
class Patterns:
    """Numbers of the author's own in a start.

    Attributes:
        patterns: values of each tensor that follow a pattern of the author's, without its most frequent one, in 32-bit
            units.
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
        """Numbers that the author brought, in all."""
        indices = sum(self.indices.values()) if self.index_bits > FREE_BITS else 0
        return sum(self.patterns.values()) + indices + self.others + self.arranged

    @property
    def arranged(self) -> int:
        """Numbers that may be hidden in the order of operators and in their sizes."""
        return max(0, self.structure - FREE_STRUCTURE, 8 * (self.pattern_structure - FREE_PATTERN_STRUCTURE))


def authors_numbers(program: Program) -> Patterns:
    """Measure how many numbers of the author's own stand in a start; torch's generator is left as it was.

    Raises:
        AuditError: the program is malformed or not allowed.
    """
    with torch.random.fork_rng(devices=[]):
        results, touched = run(program)
    tensors = {name: _made(program, results, touched, value["ref"]) for name, value in program["state"].items()}
    sources = _Sources.of(program, results, touched)
    two = _starts(program, 2)
    patterns: dict[str, int] = {}
    indices: dict[str, int] = {}
    formulas = index_bits = 0
    others: set[Source] = set()
    extra: set[Source] = set()
    for name, tensor in tensors.items():
        found = sources.behind(tensor)
        brought = sources.units_of(found)
        is_fixed = two[0][name] == two[1][name] if tensor.is_drawn else torch.ones_like(tensor.values, dtype=torch.bool)
        if brought > UNITS_GIVEN * own_units(tensor.values[is_fixed]):
            extra |= found
        table_bits = bits_of_table(tensor.values)
        if brought > FORMULA:
            (indices if table_bits else patterns)[name] = tensor.foreground_units
            index_bits += table_bits
            continue
        others |= found
        has_numbers = any(kind not in ("constant", "scale") or (kind, value) in sources.units for kind, value in found)
        if has_numbers and not table_bits and _is_ranked_alike(*(start[name] for start in two)):
            formulas += tensor.foreground

    def structure_of(chosen: Collection[_Made]) -> int:
        return compressed_structure(program, touched, ((made.steps, made.values.shape) for made in chosen))

    examined = {n: made for n, made in tensors.items() if made.foreground and structure_of([made]) > PLAIN_STRUCTURE}
    alike = _alike(program, [name for name, made in examined.items() if made.is_drawn])
    return Patterns(
        patterns,
        formulas,
        indices,
        index_bits,
        sources.units_of(others),
        structure_of(tensors.values()),
        structure_of([made for name, made in examined.items() if name in alike or not made.is_drawn]),
        sources.units_of(extra),
    )


@dataclass(frozen=True)
class _Made:
    """A tensor of the network, as the start makes it.

    Attributes:
        values: its first values, of one seed.
        steps: those on which it depends, in order.
        reads: numbers of the results that these steps read, and its own.
        is_drawn: whether one of the steps draws random numbers.
    """

    values: Tensor
    steps: Sequence[int]
    reads: frozenset[int]
    is_drawn: bool

    @cached_property
    def foreground(self) -> int:
        """How many values differ from the most frequent one."""
        counts = _reals(self.values).unique(return_counts=True)[1]
        return int(counts.sum() - counts.max()) if counts.numel() else 0

    @property
    def foreground_units(self) -> int:
        """The same in 32-bit units."""
        return self.foreground * max(1, _reals(self.values).element_size() // 4)


def _made(program: Program, results: Sequence[Tensor], touched: Sequence[Touched], number: int) -> _Made:
    values = results[number]
    steps = needed(touched, [number], [memory_of(values)])
    reads = {number}.union(*(touched[index].reads for index in steps))
    return _Made(values, steps, frozenset(reads), any(draws(program["steps"][index][0]) for index in steps))


@dataclass(frozen=True)
class _Sources:
    """Where the author's numbers in a start come from.

    Attributes:
        units: 32-bit units of each source that counts.
        by_step: the sources of each step other than constants, also those that are free.
    """

    units: Mapping[Source, int]
    by_step: Sequence[frozenset[Source]]

    @classmethod
    def of(cls, program: Program, results: Sequence[Tensor], touched: Sequence[Touched]) -> _Sources:
        """Return the sources of a start.

        The numbers of an operator on whole tensors are settings, which are free up to `FREE_SETTINGS`, and odd ones up
        to `FREE_ODD_SETTINGS`; those of an operator on a part of a tensor are not.
        """
        units = dict(_constant_units(results[: len(program["constants"])]))
        settings: dict[Source, int] = {}
        by_step = []
        for step, touches in zip(program["steps"], touched, strict=True):
            is_whole = all(results[n].nbytes == results[n].untyped_storage().nbytes() for n in touches.returns)
            found = {
                _source(step[0], literal, is_whole): written
                for literal in _literals(step)
                if (written := _literal_units(literal))
            }
            (settings if is_whole else units).update(found)
            by_step.append(frozenset(found))
        odd = {source: written for source, written in settings.items() if _is_odd(source[1])}
        for chosen, free in ((settings, FREE_SETTINGS), (odd, FREE_ODD_SETTINGS)):
            if len(chosen) > free:
                units.update(chosen)
        return cls(units, by_step)

    def behind(self, made: _Made) -> set[Source]:
        """Return the sources of a tensor."""
        constants: set[Source] = {("constant", number) for number in made.reads}
        return constants.union(*(self.by_step[index] for index in made.steps))

    def units_of(self, sources: Collection[Source]) -> int:
        """Return the 32-bit units of some sources."""
        return sum(self.units.get(source, 0) for source in sources)


def _constant_units(constants: Sequence[Tensor]) -> Iterator[tuple[Source, int]]:
    """Yield the constants that count; one that has the same value everywhere is a single number."""
    for number, tensor in enumerate(constants):
        if tensor.numel() > 1 and not bool((tensor == tensor.flatten()[0]).all()):
            yield ("constant", number), own_units(tensor)
        elif tensor.numel() and not tensor.is_complex() and (written := _literal_units(tensor.flatten()[0].item())):
            yield ("constant", number), written


def _source(name: str, literal: float, is_whole: bool) -> Source:
    """Return the source of a number in an operator; on whole tensors a scale can follow from sizes."""
    if not is_whole:
        return "literal", literal
    scales = name.split(".")[1].removesuffix("_") in ("add", "sub", "rsub", "mul", "div")
    is_scale = scales and float(literal).is_integer() and abs(literal) <= LARGEST_SIZE
    # Bounds come in pairs, and those of a weight and of its bias may differ in the last digit.
    return "scale" if is_scale else "setting", float(f"{abs(literal):.15g}")


def _is_odd(setting: float) -> bool:
    """Whether a setting is neither a short decimal nor the root of a ratio of sizes."""
    if float(f"{setting:.{SHORT}g}") == setting:
        return False
    square = Fraction(setting) ** 2
    ratio = square.limit_denominator(LARGEST_RATIO[1])
    return ratio.numerator > LARGEST_RATIO[0] or abs(ratio - square) > square / 10**12


def _literal_units(number: float) -> int:
    return 0 if number in (-1, 0, 1) or not math.isfinite(number) else written_units(number)


def _literals(step: Sequence[Any]) -> Iterator[float]:
    """Yield the numbers of a step that are not structure, such as sizes and indices."""
    for kind, value in arguments_of(step):
        if any(part in kind for part in ("number", "float", "complex", "Tensor")):
            for each in _leaves(value):
                if isinstance(each, (int, float)) and not isinstance(each, bool):
                    yield each


def _leaves(value: Any) -> Iterator[Any]:
    """Yield the parts of a plain value that are no references."""
    if isinstance(value, dict):
        yield from _leaves([each for kind, each in value.items() if kind != "ref"])
    elif isinstance(value, list):
        for each in value:
            yield from _leaves(each)
    else:
        yield value


def _alike(program: Program, names: Sequence[str]) -> set[str]:
    """Return the tensors whose values, or magnitudes, differ more from each other than from seed to seed."""
    starts = _starts(program, REPLAYS if names else 0)
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
