"""Means, confidence bounds and comparisons, as pure functions on numbers.

Each function says which of two populations it speaks of. *On this test set*: the mean over all seeds, for the images
of this test set; seeds are the sample. *On new images*: the mean over all seeds and over images like these; both
seeds and images are samples. tests/error_rates.py measures the error rate of each procedure, and docs/statistics.md
has the table.
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
    """Mean and spread of a sample; for scores, on this test set.

    Attributes:
        n: sample size.
        mean: arithmetic mean.
        std: sample standard deviation (n - 1), or None for n = 1.
        low: lower end of the two-sided 95 % confidence interval of the mean; None for n = 1, and where all values
            are equal: they agree by chance, and the width of an interval cannot be estimated from them.
        high: upper end, likewise.
    """

    n: int
    mean: float
    std: float | None
    low: float | None
    high: float | None


def summarise(values: Sequence[float], confidence: float = 0.95) -> Summary:
    """Summarise independent, roughly normal values with Student's t interval (Student 1908).

    Args:
        confidence: coverage of the two-sided interval.

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
"""Numbers of seeds at which a certificate is tested, and only there: seeds 0 to 9, then 0 to 19."""

LOOK_LEVEL = 0.03
"""One-sided level of each look; 0.05 for both together (Pocock 1977, two looks)."""


def bound_at_look(right: np.ndarray) -> float:
    """Return the lower bound of a network's mean accuracy, on this test set, that decides on its certificate.

    Scores may agree by chance. The variance of a score is therefore at least the one that the seeds' disagreement
    on single images implies.

    Args:
        right: (seeds, images) bool, whether each seed's network classifies each image correctly.
    """
    own = _Spread.of(right.mean(1).tolist())
    variance = max(own.variance, _disagreement(right) / right.shape[1])
    return _lower(right, _Spread(variance, own.freedom), LOOK_LEVEL)


LEADER_LEVEL = 0.02
"""One-sided level of the bounds of all rows of a class together. Below 0.05, as the rows differ in variance."""


def leader_bound(right: np.ndarray, board: Sequence[Sequence[float]], rows: int) -> float:
    """Return the lower bound of the mean of a class's first row, on this test set, given that it is the best of many.

    The bound holds for all `rows` of the class at once (Bonferroni). Its variance is the largest of three: that of
    the row's own seeds, the pooled one of all rows, and the one that the seeds' disagreement on single images implies.

    Args:
        right: (seeds, images) bool, whether each seed's network classifies each image correctly; at least two seeds.
        board: the scores of every row with two or more seeds, including this one.
        rows: how many rows could have come first.
    """
    own, pooled = _Spread.of(right.mean(1).tolist()), _Spread.pooled([_Spread.of(scores) for scores in board])
    spread = max(own, pooled, _Spread(_disagreement(right) / right.shape[1], pooled.freedom))
    return _lower(right, spread, LEADER_LEVEL / rows)


def _lower(right: np.ndarray, spread: _Spread, level: float) -> float:
    from scipy.special import stdtrit

    half = float(stdtrit(spread.freedom, 1 - level)) * math.sqrt(spread.variance / len(right))
    return max(float(right.mean()) - half, 0.0)


def expected_selection_gain(accuracy: float, images: int, candidates: int) -> float:
    """Return how far the best of equally good networks is expected to score above their mean, by chance alone.

    It is the expected maximum of `candidates` independent normal scores, each with the standard error of an
    accuracy over `images` images. Scores on the same images are correlated, so it is an upper estimate.

    Raises:
        ValueError: there are no images or no candidates.
    """
    if images < 1 or candidates < 1:
        raise ValueError("the selection gain needs images and candidates")
    from scipy.integrate import quad  # deferred, as above
    from scipy.stats import norm

    error = math.sqrt(accuracy * (1 - accuracy) / images)
    # E[max] is the integral of x d(F(x)^k), which is negligible beyond 12 standard deviations.
    expected, _ = quad(lambda x: x * candidates * norm.pdf(x) * norm.cdf(x) ** (candidates - 1), -12, 12)
    return error * float(expected)


MOST_SEEDS = 1_000
"""Most seeds that a row is trained with: a difference that needs more is out of reach."""


@dataclass(frozen=True)
class Comparison:
    """How much more accurate one network is than another on new images.

    Attributes:
        difference: difference of the mean accuracies, as a fraction of 1.
        low, high: two-sided 95 % confidence interval of the difference; None if either network has a single seed.
        p: two-sided p-value for the hypothesis of no difference; None likewise.
        seeds: about how many seeds per network would detect a difference of this size with a power of 80 %, corrected
            for the number of pairs; None if `MOST_SEEDS` would not, or if either network has a single seed.
    """

    difference: float
    low: float | None
    high: float | None
    p: float | None
    seeds: int | None


def compare(a: np.ndarray, b: np.ndarray, pairs: int = 1) -> Comparison:
    """Compare the accuracies of two networks on new images; seeds and test images are both random samples.

    The variance of the difference is that of crossed random effects, with an unbiased estimate of each component
    (Searle, Casella and McCulloch 1992, chapter 4): a component of the images, which more seeds do not reduce, and
    one of the seeds of each network. A few seeds sometimes agree by chance, so the variance of a network's seeds is
    at least the pooled variance of both networks. These variances are estimates: the interval is Student's t with
    the degrees of freedom of Welch 1947 and Satterthwaite 1946, with the images' component taken as known. The
    standard error is at least one image.

    Args:
        a: (seeds, images) bool, whether each seed's network classifies each image correctly.
        b: likewise for the other network and the same images; its seeds may differ in number and value.
        pairs: number of pairs that are compared together; the number of seeds needed is corrected for it.

    Raises:
        ValueError: there are no seeds, or the images differ in number.
    """
    if not len(a) or not len(b) or a.shape[1:] != b.shape[1:]:
        raise ValueError(f"cannot compare predictions of shapes {a.shape} and {b.shape}")
    right = int(a.sum()), int(b.sum())  # integers: the order of the seeds must not turn an exact 0 into -1e-17
    difference = (right[0] * b.size - right[1] * a.size) / (a.size * b.size)
    if min(len(a), len(b)) < 2:
        return Comparison(difference, None, None, None, None)
    from scipy.special import stdtr, stdtrit

    own = [_Spread.of(part.mean(1).tolist()) for part in (a, b)]
    spreads = [max(each, _Spread.pooled(own)) for each in own]
    of_images = max(_image_variance(a.mean(0) - b.mean(0), (a, b)), 1 / a.shape[1] ** 2)
    parts = [spread.variance / len(arm) for spread, arm in zip(spreads, (a, b), strict=True)]
    error = math.sqrt(of_images + sum(parts))
    freedom = _freedom(error, parts, spreads)
    half = float(stdtrit(freedom, 0.975)) * error
    p = 2 * float(stdtr(freedom, -abs(difference) / error))
    seeds = _seeds_needed(difference, of_images, sum(spread.variance for spread in spreads), pairs)
    return Comparison(difference, difference - half, difference + half, p, seeds)


Verdict = Literal["better", "worse", "cannot tell yet"]

FEWEST = 3
"""Fewest seeds with which a network gets a verdict and a row a rank."""

CONFIDENCE = 0.05
"""Significance level: a p-value below it, after all adjustment, gives a verdict."""


def judge(difference: float, p: float | None, seeds: int) -> Verdict:
    """Return the verdict on the first of two networks.

    Args:
        difference: its mean accuracy minus that of the second.
        p: the adjusted p-value for the hypothesis of no difference, or None.
        seeds: number of seeds of the network with fewer.
    """
    if p is None or p >= CONFIDENCE or seeds < FEWEST:
        return "cannot tell yet"
    return "better" if difference > 0 else "worse"


def bound_on_new_images(right: np.ndarray) -> float | None:
    """Return the one-sided 95 % lower bound of a network's mean accuracy on new images; None for one seed.

    The variance of the mean is that of `compare`, for a single network. The bound is computed on the logarithm of
    the error rate: the number of errors is small and its distribution skewed, and a bound on the linear scale would
    be too high in 7 % of cases. It is never above the bound on this test set.

    Args:
        right: (seeds, images) bool, whether each seed's network classifies each image correctly.
    """
    if len(right) < 2:
        return None
    from scipy.special import stdtrit

    scores, one = right.mean(1).tolist(), 1 / right.shape[1]
    spread = _Spread.of(scores)
    part = spread.variance / len(right)
    error = math.sqrt(max(_image_variance(right.mean(0), (right,)), one**2) + part)
    wrong = max(1 - float(right.mean()), one)
    bound = 1 - wrong * math.exp(float(stdtrit(_freedom(error, [part], [spread]), 0.95)) * error / wrong)
    return max(min(bound, lower_bound(scores) or bound), 0.0)


@dataclass(frozen=True)
class Agreement:
    """A test whether two samples of scores can be of one distribution, on this test set.

    Attributes:
        p: two-sided p-value.
        difference: mean of the second sample minus that of the first.
        detectable: the smallest difference that would have a p-value below 0.01.
    """

    p: float
    difference: float
    detectable: float


def agreement(a: np.ndarray, b: np.ndarray) -> Agreement | None:
    """Test whether the scores of two samples of seeds can be of one distribution; None for two single seeds.

    Student's t test with one variance for both, as the hypothesis says; so one of the samples may be a single seed. The
    variance is at least the one that the seeds' disagreement on single images implies: scores may agree by chance.

    Args:
        a: (seeds, images) bool, whether each seed's network classifies each image correctly.
        b: likewise for the second sample.
    """
    spreads = [_Spread.of(right.mean(1).tolist()) for right in (a, b) if len(right) > 1]
    if not spreads:
        return None
    from scipy.special import stdtr, stdtrit

    spread = _Spread.pooled(spreads)
    variance = max(spread.variance, _disagreement(np.concatenate([a, b])) / a.shape[1])
    error = math.sqrt(variance * (1 / len(a) + 1 / len(b)))
    difference = float(b.mean() - a.mean())
    if not error:  # all predictions are equal
        return Agreement(1.0, difference, 0.0)
    p = 2 * float(stdtr(spread.freedom, -abs(difference) / error))
    return Agreement(p, difference, float(stdtrit(spread.freedom, 1 - 0.005)) * error)


@dataclass(frozen=True, order=True)
class _Spread:
    """An estimate of the variance of a single seed's score, with its degrees of freedom."""

    variance: float
    freedom: int

    @classmethod
    def of(cls, scores: Sequence[float]) -> _Spread:
        return cls(float(np.var(np.sort(scores), ddof=1)), len(scores) - 1)

    @classmethod
    def pooled(cls, several: Sequence[_Spread]) -> _Spread:
        freedom = sum(each.freedom for each in several)
        return cls(math.fsum(each.variance * each.freedom for each in several) / freedom, freedom)


def _image_variance(by_image: np.ndarray, arms: Sequence[np.ndarray]) -> float:
    """Return the images' component of the variance of a mean, which more seeds do not reduce; at least 0.

    Args:
        by_image: (images,) the share of a network's seeds that classify each image correctly, or a difference of two.
        arms: the predictions it comes from, (seeds, images) bool each.
    """
    from_seeds = sum(_disagreement(arm) / len(arm) for arm in arms)
    return max(float(by_image.var()) - from_seeds, 0) / len(by_image)


def _disagreement(right: np.ndarray) -> float:
    """Return the unbiased variance over seeds of being correct on one image, averaged over images."""
    shares = right.mean(0)
    return float((shares * (1 - shares)).mean()) * len(right) / (len(right) - 1)


def _freedom(error: float, parts: Sequence[float], spreads: Sequence[_Spread]) -> float:
    uncertain = sum(part**2 / spread.freedom for part, spread in zip(parts, spreads, strict=True))
    return error**4 / uncertain if uncertain else math.inf


def _seeds_needed(difference: float, of_images: float, of_seeds: float, pairs: int) -> int | None:
    """Return how many seeds per network detect a difference of this size with a power of 80 %, or None.

    Args:
        of_images: component of the variance that more seeds do not reduce.
        of_seeds: component of the variance that is divided by the number of seeds.
        pairs: number of pairs that are compared together.
    """
    from scipy.special import stdtrit

    def detects(seeds: int) -> bool:
        part = of_seeds / seeds
        error = math.sqrt(of_images + part)
        freedom = _freedom(error, [part], [_Spread(of_seeds, seeds - 1)])
        needed = float(stdtrit(freedom, 1 - 0.025 / pairs) + stdtrit(freedom, 0.8))  # Bonferroni: Holm's first step
        return abs(difference) >= needed * error

    counts = range(FEWEST, MOST_SEEDS + 1)
    place = bisect.bisect_left(counts, True, key=detects)
    return counts[place] if place < len(counts) else None


def holm(p_values: Sequence[float], among: int | None = None) -> list[float]:
    """Adjust p-values for multiple comparisons (Holm 1979) and return them in the given order.

    Args:
        among: size of the family of tests, if the p-values are only some of it; by default their number. Leaving
            out the other tests never makes an adjusted value too small: a rank in the family is no earlier than
            the rank among these.
    """
    among = len(p_values) if among is None else among
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min((among - place) * p_values[index], 1.0))
        adjusted[index] = highest
    return adjusted


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """Return the two-sided p-value for two trained networks being equally accurate (McNemar 1947, exact).

    Args:
        a: (images,) bool, whether the first network classifies each image correctly.
        b: likewise for the second network.
    """
    from scipy.stats import binomtest

    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
