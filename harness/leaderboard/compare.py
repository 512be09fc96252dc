"""Pairs of rows compared on new images, with p-values adjusted for their number."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.leaderboard.row import Row
from harness.statistics import Comparison, Verdict, compare, holm, judge, mcnemar

LEADERS = 5
"""Rows that are compared with each other."""


@dataclass(frozen=True)
class Pair:
    """Two rows compared, on new images.

    Attributes:
        a, b: the rows; the verdict is on `a`.
        p: the p-value after Holm's adjustment; None where a row has a single seed.
        among: the number of pairs that it is adjusted for.
        verdict: whether `a` is better than `b`.
        mcnemar: the exact p-value for the two runs, where each row is a single one: of the two trained
            networks, not of their recipes.
    """

    a: Row
    b: Row
    comparison: Comparison
    p: float | None
    among: int
    verdict: Verdict
    mcnemar: float | None


def compare_leaders(rows: Sequence[Row]) -> list[Pair]:
    """Compare every leader with every later one, adjusting for their number."""
    return compare_all(_leading(rows))


def compare_asked(rows: Sequence[Row], a: Row, b: Row) -> Pair:
    """Compare two rows of a board, adjusting for all pairs of its ranked rows: any could have been asked for."""
    others = [(first, second) for first, second in _leading(rows) if {first.id, second.id} != {a.id, b.id}]
    could_be = {a.id, b.id, *(row.id for row in rows if row.rank)}
    return compare_all([(a, b), *others], math.comb(len(could_be), 2))[0]


def _leading(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    return [*itertools.combinations([row for row in rows if row.rank][:LEADERS], 2)]


def compare_all(pairs: Sequence[tuple[Row, Row]], among: int | None = None) -> list[Pair]:
    """Compare pairs of rows, adjusting for their number, or for being some `among` so many."""
    among = len(pairs) if among is None else among
    found = [compare(a.correct, b.correct, among) for a, b in pairs]
    adjusted = iter(holm([comparison.p for comparison in found if comparison.p is not None], among))
    made = []
    for (a, b), comparison in zip(pairs, found, strict=True):
        p = None if comparison.p is None else next(adjusted)
        exact = mcnemar(a.correct[0], b.correct[0]) if a.n == b.n == 1 else None
        verdict = judge(comparison.difference, p, min(a.n, b.n))
        made.append(Pair(a, b, comparison, p, among, verdict, exact))
    return made
