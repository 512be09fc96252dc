"""Means, intervals and what a choice is worth: pure functions on numbers, nothing else."""

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


def luck(accuracy: float, images: int, candidates: int) -> float:
    """Return by how much the best of equally good networks is expected to score above their mean.

    The expected maximum of `candidates` independent normal scores, each with the standard error of an
    accuracy over `images` images. Scores on the same images lean the same way, so it is an upper estimate.

    Raises:
        ValueError: there are no images or no candidates.
    """
    if images < 1 or candidates < 1:
        raise ValueError("luck needs images and candidates")
    from scipy.integrate import quad  # deferred, as above
    from scipy.stats import norm

    error = math.sqrt(accuracy * (1 - accuracy) / images)
    # E[max] is the integral of x d(F(x)^k); beyond 12 standard deviations nothing is left of it.
    expected, _ = quad(lambda x: x * candidates * norm.pdf(x) * norm.cdf(x) ** (candidates - 1), -12, 12)
    return error * float(expected)
