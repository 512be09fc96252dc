"""Means, intervals and what a choice is worth: pure functions on numbers, nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


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
    from scipy.special import stdtrit  # deferred, and not scipy.stats, which takes a second to load

    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * std / math.sqrt(n)
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


DRAWS = 2_000
"""Bootstrap samples behind a comparison: its standard error is then known to 2 %."""

MOST_SEEDS = 1_000
"""Seeds a row beyond which nobody will train: a difference that needs more is out of reach."""


@dataclass(frozen=True)
class Comparison:
    """How much more accurate one network is than another.

    Attributes:
        difference: of the mean accuracies, as a fraction of 1.
        low, high: two-sided 95 % interval of the difference; None where either has a single seed.
        p: two-sided p-value of no difference; None likewise.
        seeds: seeds each that would show a difference of this size four times in five, among all the pairs that
            are compared together; None where `MOST_SEEDS` would not, or either has a single seed.
    """

    difference: float
    low: float | None
    high: float | None
    p: float | None
    seeds: int | None


def compare(a: np.ndarray, b: np.ndarray, pairs: int = 1) -> Comparison:
    """Compare two networks by a paired bootstrap on two levels, seeds and images.

    Both levels are samples: another seed would have given other weights, another test set other images. The
    images are shared, so they are drawn together for both. Seeds are drawn for each on its own, n - 1 of n (Rao
    and Wu 1988), which makes the spread of few seeds come out unbiased; and as few seeds agree by luck now and
    then, they are drawn from both networks where one spreads less than both together. A level is drawn with the
    other as observed and the two deviations are added: drawn together they would count the noise between a seed
    and an image three times (Owen 2007, "The pigeonhole bootstrap"), and added they still count it twice, so that
    the interval is rather too wide. Few seeds also make a spread uncertain: Student's t with the degrees of
    freedom of Welch 1947 and Satterthwaite 1946, the images' part taken as known.

    Args:
        a: (seeds, images) bool, whether a seed's network answers an image rightly.
        b: likewise, for the same images; the seeds may be others, and more or fewer.
        pairs: how many are compared together: the number of seeds that would settle it allows for them.

    Raises:
        ValueError: there are no seeds, or the images differ in number.
    """
    if not len(a) or not len(b) or a.shape[1:] != b.shape[1:]:
        raise ValueError(f"cannot compare answers of shapes {a.shape} and {b.shape}")
    scores = a.mean(1), b.mean(1)
    right = int(a.sum()), int(b.sum())  # whole numbers: no order of seeds may turn an exact 0 into a little less
    difference = (right[0] * b.size - right[1] * a.size) / (a.size * b.size)
    if difference < 0:  # so that b compared to a is the exact opposite
        return _opposite(compare(b, a, pairs))
    if min(len(a), len(b)) < 2:
        return Comparison(difference, None, None, None, None)
    generator = np.random.default_rng(0)
    by_image, count = np.unique(a.mean(0) - b.mean(0), return_counts=True)
    images = generator.multinomial(count.sum(), count / count.sum(), DRAWS) @ by_image / count.sum()
    arms = _arms(scores)
    seeds = [arm.means(generator) for arm in arms]
    error = float(np.std(images - difference + seeds[0] - seeds[1], ddof=1))
    if error == 0:
        return Comparison(difference, difference, difference, 0.0 if difference else 1.0, None)
    from scipy.special import stdtr, stdtrit

    uncertain = sum((arm.variance / arm.seeds) ** 2 / arm.freedom for arm in arms)
    freedom = error**4 / uncertain if uncertain else math.inf
    half = float(stdtrit(freedom, 0.975)) * error
    p = 2 * float(stdtr(freedom, -difference / error))
    return Comparison(difference, difference - half, difference + half, p, _seeds_to_settle(a, b, pairs))


def _opposite(other: Comparison) -> Comparison:
    low, high = (None if end is None else -end for end in (other.high, other.low))
    return Comparison(-other.difference, low, high, other.p, other.seeds)


@dataclass(frozen=True)
class _Arm:
    """How far the mean of a network's seeds may lie from that of all seeds.

    Attributes:
        seeds: how many it is the mean of.
        deviations: of scores from their means, in order; what seeds are drawn from.
        freedom: degrees of freedom of their spread.
        drawn: how many are drawn for one mean, so that its variance is that of the mean.
    """

    seeds: int
    deviations: np.ndarray
    freedom: int
    drawn: int

    @property
    def variance(self) -> float:
        """Of a single seed's score."""
        return float((self.deviations**2).sum()) / self.freedom

    def means(self, generator: np.random.Generator) -> np.ndarray:
        """Return the deviations of `DRAWS` means."""
        size = len(self.deviations)
        counts = generator.multinomial(self.drawn, np.full(size, 1 / size), DRAWS)
        unbiased = math.sqrt(size * self.drawn / (self.freedom * self.seeds))
        means: np.ndarray = counts @ self.deviations / self.drawn * unbiased
        return means


def _arms(scores: Sequence[np.ndarray]) -> list[_Arm]:
    own = [_Arm(len(score), np.sort(score) - score.mean(), len(score) - 1, len(score) - 1) for score in scores]
    deviations = np.sort(np.concatenate([arm.deviations for arm in own]))
    both = [_Arm(arm.seeds, deviations, len(deviations) - 2, arm.seeds) for arm in own]
    return [max(pair, key=lambda arm: arm.variance) for pair in zip(own, both, strict=True)]


def _seeds_to_settle(a: np.ndarray, b: np.ndarray, pairs: int) -> int | None:
    """Return the seeds each at which a difference of this size shows with a power of 80 % among so many `pairs`.

    What of the error is there whatever the seeds are, is the spread over images of the difference between the two
    mean answers, less what the few seeds at hand add to that spread. All else falls with the number of seeds.
    """
    images = a.shape[1]
    by_image = a.mean(0) - b.mean(0)
    noise = [float((part.mean(0) * (1 - part.mean(0))).mean()) * len(part) / (len(part) - 1) for part in (a, b)]
    at_hand = sum(each / len(part) for each, part in zip(noise, (a, b), strict=True))
    lasting = max(float(by_image.var()) - at_hand, 0) / images
    falling = sum(float(part.mean(1).var(ddof=1)) for part in (a, b)) + sum(noise) / images
    from scipy.special import ndtri

    needed = float(ndtri(1 - 0.025 / pairs) + ndtri(0.8))  # standard errors; Bonferroni, as Holm begins
    room = (float(by_image.mean()) / needed) ** 2 - lasting
    if room <= 0 or falling > room * MOST_SEEDS:
        return None
    return max(math.ceil(falling / room), 2)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for there being several of them (Holm 1979), in the order given."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min((len(p_values) - place) * p_values[index], 1.0))
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


def lower_bound(values: Sequence[float]) -> float | None:
    """Return the one-sided 95 % lower bound of the mean (Student's t), or None for a single value."""
    return summarise(values, 0.90).low
