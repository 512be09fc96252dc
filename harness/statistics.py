"""Means, bounds and comparisons: pure functions on numbers, nothing else.

Two questions have answers here, and each function says which is its own. *On this test set*: where would the mean of
all seeds lie, for the images that were asked? Seeds are the sample. *On new images*: and for other images like these?
Seeds and images are. How often each answer is wrong is measured by tests/error_rates.py, with the table in
docs/statistics.md.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Summary:
    """Mean of a sample with its spread; of scores, on this test set.

    Attributes:
        n: sample size.
        mean: arithmetic mean.
        std: sample standard deviation (n - 1), or None for n = 1.
        low: lower end of the two-sided 95 % interval of the mean; None for n = 1, and where all values are equal:
            what they agree by is then luck, and no width can be told from it.
        high: upper end, likewise.
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
    if min(values) == max(values):
        return Summary(n, values[0], 0.0, None, None)
    from scipy.special import stdtrit  # deferred, and not scipy.stats, which takes a second to load

    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * std / math.sqrt(n)
    return Summary(n, mean, std, mean - half, mean + half)


def lower_bound(values: Sequence[float]) -> float | None:
    """Return the one-sided 95 % lower bound of the mean of scores, on this test set (Student's t).

    None where `summarise` has no interval.
    """
    low = summarise(values, 0.90).low
    return None if low is None else max(low, 0.0)


LOOKS = (10, 20)
"""Seeds at which a certificate is looked at, and at no other number: seeds 0 to 9, then 0 to 19."""

LOOK_LEVEL = 0.03
"""One-sided level of each look: of both together 0.05 (Pocock 1977, two looks)."""


def bound_at_look(right: np.ndarray) -> float:
    """Return the lower bound of a network's mean accuracy, on this test set, that a certificate is given by.

    Where the scores agree by luck, their spread is what the seeds' disagreement on single images makes of it.

    Args:
        right: (seeds, images) bool, whether a seed's network answers an image rightly.
    """
    own = _Spread.of(right.mean(1).tolist())
    variance = max(own.variance, _disagreement(right) / right.shape[1])
    return _lower(right, _Spread(variance, own.freedom), LOOK_LEVEL)


LEADER_LEVEL = 0.02
"""One-sided level that the bounds of the rows of a class share. Below 0.05, as rows do not all spread alike."""


def leader_bound(right: np.ndarray, board: Sequence[Sequence[float]], rows: int) -> float:
    """Return the lower bound of the mean of a class's first row, on this test set, which is the best of many.

    It holds for all `rows` of the class at once (Bonferroni). The spread is the largest of three: that of the row's
    own seeds, that of the seeds of all rows, and what the seeds' disagreement on single images makes of it.

    Args:
        right: (seeds, images) bool, whether a seed's network answers an image rightly; two seeds or more.
        board: the scores of every row of two or more seeds, this one's among them.
        rows: how many could have come first.
    """
    own, pooled = _Spread.of(right.mean(1).tolist()), _Spread.pooled([_Spread.of(scores) for scores in board])
    spread = max(own, pooled, _Spread(_disagreement(right) / right.shape[1], pooled.freedom))
    return _lower(right, spread, LEADER_LEVEL / rows)


def _lower(right: np.ndarray, spread: _Spread, level: float) -> float:
    from scipy.special import stdtrit

    half = float(stdtrit(spread.freedom, 1 - level)) * math.sqrt(spread.variance / len(right))
    return max(float(right.mean()) - half, 0.0)


def expected_selection_gain(accuracy: float, images: int, candidates: int) -> float:
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


MOST_SEEDS = 1_000
"""Seeds a row beyond which no row is trained: a difference that needs more is out of reach."""


@dataclass(frozen=True)
class Comparison:
    """How much more accurate one network is than another on new images.

    Attributes:
        difference: of the mean accuracies, as a fraction of 1.
        low, high: two-sided 95 % interval of the difference; None where either has a single seed.
        p: two-sided p-value of no difference; None likewise.
        seeds: about how many seeds each would show a difference of this size four times in five, among all the pairs
            that are compared together; None where `MOST_SEEDS` would not, or either has a single seed.
    """

    difference: float
    low: float | None
    high: float | None
    p: float | None
    seeds: int | None


def compare(a: np.ndarray, b: np.ndarray, pairs: int = 1) -> Comparison:
    """Compare two networks whose seeds and test images are both samples: other seeds, other images, other answers.

    The variance of the difference is that of crossed random effects, each part without bias (Searle, Casella and
    McCulloch 1992, chapter 4): what its mean over images varies by whatever the seeds are, and what the mean of
    either network's seeds varies by. Few seeds agree by luck now and then, so where a network's seeds spread less
    than both networks' together, it has the spread of both. That spread is uncertain too: Student's t with the
    degrees of freedom of Welch 1947 and Satterthwaite 1946, the images' part taken as known. No difference is
    known to better than one image.

    Args:
        a: (seeds, images) bool, whether a seed's network answers an image rightly.
        b: likewise, for the same images; the seeds may be others, and more or fewer.
        pairs: how many are compared together: the number of seeds that would settle it allows for them.

    Raises:
        ValueError: there are no seeds, or the images differ in number.
    """
    if not len(a) or not len(b) or a.shape[1:] != b.shape[1:]:
        raise ValueError(f"cannot compare answers of shapes {a.shape} and {b.shape}")
    right = int(a.sum()), int(b.sum())  # whole numbers: no order of seeds may turn an exact 0 into a little less
    difference = (right[0] * b.size - right[1] * a.size) / (a.size * b.size)
    if min(len(a), len(b)) < 2:
        return Comparison(difference, None, None, None, None)
    from scipy.special import stdtr, stdtrit

    own = [_Spread.of(part.mean(1).tolist()) for part in (a, b)]
    spreads = [max(each, _Spread.pooled(own)) for each in own]
    lasting = max(_lasting(a.mean(0) - b.mean(0), (a, b)), 1 / a.shape[1] ** 2)
    parts = [spread.variance / len(arm) for spread, arm in zip(spreads, (a, b), strict=True)]
    error = math.sqrt(lasting + sum(parts))
    freedom = _freedom(error, parts, spreads)
    half = float(stdtrit(freedom, 0.975)) * error
    p = 2 * float(stdtr(freedom, -abs(difference) / error))
    seeds = _seeds_to_settle(difference, lasting, sum(spread.variance for spread in spreads), pairs)
    return Comparison(difference, difference - half, difference + half, p, seeds)


Verdict = Literal["better", "worse", "cannot tell yet"]

FEWEST = 3
"""Seeds of a network below which it gets no verdict, and a row no rank."""

CONFIDENCE = 0.05
"""p-values below this, after all adjustment, make a verdict."""


def judge(difference: float, p: float | None, seeds: int) -> Verdict:
    """Return what is said of the first of two networks.

    Args:
        difference: of their mean accuracies.
        p: the p-value of no difference, adjusted; None where there is none.
        seeds: of the one with fewer.
    """
    if p is None or p >= CONFIDENCE or seeds < FEWEST:
        return "cannot tell yet"
    return "better" if difference > 0 else "worse"


def bound_on_new_images(right: np.ndarray) -> float | None:
    """Return the one-sided 95 % lower bound of a network's mean accuracy on images like these; None for one seed.

    The variance of the mean is that of `compare`, for a single network. The bound is taken on the logarithm of the
    share of errors: few errors are as skew as counts are, and a straight bound would be too high in 7 % of cases. It
    is never above that on this test set.

    Args:
        right: (seeds, images) bool, whether a seed's network answers an image rightly.
    """
    if len(right) < 2:
        return None
    from scipy.special import stdtrit

    scores, one = right.mean(1).tolist(), 1 / right.shape[1]
    spread = _Spread.of(scores)
    part = spread.variance / len(right)
    error = math.sqrt(max(_lasting(right.mean(0), (right,)), one**2) + part)
    wrong = max(1 - float(right.mean()), one)
    bound = 1 - wrong * math.exp(float(stdtrit(_freedom(error, [part], [spread]), 0.95)) * error / wrong)
    return max(min(bound, lower_bound(scores) or bound), 0.0)


@dataclass(frozen=True, order=True)
class _Spread:
    """The variance of a single seed's score, and the degrees of freedom that it is known by."""

    variance: float
    freedom: int

    @classmethod
    def of(cls, scores: Sequence[float]) -> _Spread:
        return cls(float(np.var(np.sort(scores), ddof=1)), len(scores) - 1)

    @classmethod
    def pooled(cls, several: Sequence[_Spread]) -> _Spread:
        freedom = sum(each.freedom for each in several)
        return cls(math.fsum(each.variance * each.freedom for each in several) / freedom, freedom)


def _lasting(by_image: np.ndarray, arms: Sequence[np.ndarray]) -> float:
    """Return the variance over images of a mean that stays, however many seeds it is of; no less than none.

    Args:
        by_image: (images,) a network's mean answer to each image, or the difference of two.
        arms: the answers behind it, (seeds, images) each.
    """
    at_hand = sum(_disagreement(arm) / len(arm) for arm in arms)
    return max(float(by_image.var()) - at_hand, 0) / len(by_image)


def _disagreement(right: np.ndarray) -> float:
    """Return the variance over seeds of the answer to an image, without bias, on average over images."""
    shares = right.mean(0)
    return float((shares * (1 - shares)).mean()) * len(right) / (len(right) - 1)


def _freedom(error: float, parts: Sequence[float], spreads: Sequence[_Spread]) -> float:
    uncertain = sum(part**2 / spread.freedom for part, spread in zip(parts, spreads, strict=True))
    return error**4 / uncertain if uncertain else math.inf


def _seeds_to_settle(difference: float, lasting: float, falling: float, pairs: int) -> int | None:
    """Return the seeds each at which a difference of this size shows with a power of 80 % among so many `pairs`.

    Of its variance `lasting` is there whatever the seeds are, and `falling` is divided by their number.
    """
    from scipy.special import stdtrit

    def shows(seeds: int) -> bool:
        part = falling / seeds
        error = math.sqrt(lasting + part)
        freedom = _freedom(error, [part], [_Spread(falling, seeds - 1)])
        needed = float(stdtrit(freedom, 1 - 0.025 / pairs) + stdtrit(freedom, 0.8))  # Bonferroni, as Holm begins
        return abs(difference) >= needed * error

    counts = range(FEWEST, MOST_SEEDS + 1)
    place = bisect.bisect_left(counts, True, key=shows)
    return counts[place] if place < len(counts) else None


def holm(p_values: Sequence[float], among: int | None = None) -> list[float]:
    """Adjust p-values for there being several of them (Holm 1979), in the order given.

    Args:
        among: of how many these are some; as many as there are unless given. None of the others can make an
            adjusted value too small: a place among all is no earlier than one among these.
    """
    among = len(p_values) if among is None else among
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min((among - place) * p_values[index], 1.0))
        adjusted[index] = highest
    return adjusted


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """Return the two-sided p-value that two trained networks are equally often right (McNemar 1947, exact).

    Args:
        a: (images,) bool, whether the first answers an image rightly.
        b: likewise the second.
    """
    from scipy.stats import binomtest

    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
