"""Pairwise comparisons of rows on new images, with p-values adjusted for the number of pairs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.leaderboard.row import Row
from harness.statistics import Comparison, Verdict, compare, holm, judge, mcnemar

LEADERS = 5
"""Number of ranked rows that are compared with each other."""


@dataclass(frozen=True)
class Pair:
    """A comparison of two rows on new images.

    Attributes:
        a, b: the rows; the verdict is about `a`.
        comparison: difference, interval and p-value of this pair alone.
        p: the p-value after Holm's adjustment; None if a row has a single seed.
        among: the number of pairs that `p` is adjusted for.
        verdict: whether `a` is better than `b`.
        mcnemar: the exact p-value of McNemar's test if each row has a single run, else None. It compares the two
            trained networks, not their recipes.
    """

    a: Row
    b: Row
    comparison: Comparison
    p: float | None
    among: int
    verdict: Verdict
    mcnemar: float | None


def compare_leaders(rows: Sequence[Row]) -> list[Pair]:
    """Compare all pairs of the first `LEADERS` ranked rows, adjusting for their number."""
    return compare_all(_leading(rows))


def compare_asked(rows: Sequence[Row], a: Row, b: Row) -> Pair:
    """Compare two rows of a board, adjusting for all pairs of ranked rows, any of which could have been requested."""
    others = [(first, second) for first, second in _leading(rows) if {first.id, second.id} != {a.id, b.id}]
    could_be = {a.id, b.id, *(row.id for row in rows if row.rank)}
    return compare_all([(a, b), *others], math.comb(len(could_be), 2))[0]


def _leading(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    return [*itertools.combinations([row for row in rows if row.rank][:LEADERS], 2)]


def compare_all(pairs: Sequence[tuple[Row, Row]], among: int | None = None) -> list[Pair]:
    """Compare pairs of rows, adjusting for their number, or for `among` pairs if that is given."""
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
