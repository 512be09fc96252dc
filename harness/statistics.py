"""Means, intervals and, later, tests: pure functions on numbers, nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """Mean of a sample with its spread.

    Attributes:
        n: sample size.
        mean: arithmetic mean.
        std: sample standard deviation (n - 1), or None for n = 1.
        low: lower end of the two-sided 95 % interval of the mean, or None for n = 1.
        high: upper end, or None for n = 1.
    """

    n: int
    mean: float
    std: float | None
    low: float | None
    high: float | None


def summarise(values: Sequence[float], confidence: float = 0.95) -> Summary:
    """Summarise independent, roughly normal values with Student's t interval (Student 1908).

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("cannot summarise an empty sample")
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Summary(n, mean, None, None, None)
    from scipy.stats import t  # deferred: 0.5 s that a single-seed run never needs

    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(t.ppf((1 + confidence) / 2, n - 1)) * std / math.sqrt(n)
    return Summary(n, mean, std, mean - half, mean + half)
