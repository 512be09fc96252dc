"""How often the board is wrong: its own statistics, tried on made-up networks of which the truth is known.

    python tests/error_rates.py [--worlds N] [--seed S]

prints the tables of docs/statistics.md. The made-up networks are fitted to the 63 runs of tests/data: two seeds of one
network, and two networks, err on the same images as often as recorded ones do.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from harness.leaderboard.compare import LEADERS
from harness.statistics import (
    LOOKS,
    bound_at_look,
    bound_on_new_images,
    compare,
    holm,
    judge,
    leader_bound,
    lower_bound,
    summarise,
)

IMAGES = 10_000

ERROR = 0.0055
"""Share of new images that a network errs at: that of a row in the middle of the board."""

WITHIN, BETWEEN = 0.92, 0.87
"""How alike two seeds of a network, and two networks, find images hard: medians of the 14 recorded rows and their 91
pairs. The standard error that images alone give a pair of them is 0.034 points, as is the recorded pairs' median."""

APART = 0.82
"""As `BETWEEN`, of the tenth of the pairs that are least alike: their standard error is 0.045 points."""

RECORDED = (0.015, 0.034, 0.025, 0.021, 0.025, 0.026, 0.010, 0.055, 0.035, 0.116, 0.038, 0.072, 0.064, 0.044)
"""Standard deviations of the seeds' scores of the recorded rows, in points. What is above 0.048, which the seeds'
disagreement on single images makes, is a spread that moves all images of a seed at once."""


@dataclass(frozen=True)
class World:
    """Rows of networks that all answered the same new images, and what their means would be over all seeds.

    An image is as hard as the sum of three normal numbers says: one of its own, one of it and the row, one of it and
    the seed. A network errs where it is too hard (a probit model with crossed random effects).

    Attributes:
        right: of each row (seeds, images) bool, whether a seed's network answers an image rightly.
        truths: of each row its mean accuracy on these images, over all seeds there could be.
    """

    right: list[np.ndarray]
    truths: list[float]

    @property
    def scores(self) -> list[list[float]]:
        return [right.mean(1).tolist() for right in self.right]


def world(
    generator: np.random.Generator,
    seeds: Sequence[int],
    errors: Sequence[float] | None = None,
    between: float = BETWEEN,
    spreads: Sequence[float] | None = None,
) -> World:
    """Make a world with one row for each number of `seeds`.

    Args:
        errors: of each row its share of errors on new images; all `ERROR` unless given.
        spreads: of each row the standard deviation of its seeds' scores that moves all images at once, in points.
    """
    own = generator.standard_normal(IMAGES)
    limits = [-float(ndtri(error)) for error in errors or [ERROR] * len(seeds)]
    hard = np.flatnonzero(math.sqrt(between) * own > min(limits) - 4.9 * math.sqrt(1 - between))  # else 5 in 10 million
    made = World([], [])
    for count, limit, spread in zip(seeds, limits, spreads or [0.0] * len(seeds), strict=True):
        moved = spread / 100 / (math.exp(-(limit**2) / 2) / math.sqrt(2 * math.pi))
        limit *= math.sqrt(1 + moved**2)
        of_row = math.sqrt(between) * own[hard] + math.sqrt(WITHIN - between) * generator.standard_normal(len(hard))
        of_seed = math.sqrt(1 - WITHIN) * generator.standard_normal((count, len(hard)), dtype=np.float32)
        right = np.ones((count, IMAGES), dtype=bool)
        right[:, hard] = of_row + of_seed + moved * generator.standard_normal((count, 1)) <= limit
        made.right.append(right)
        made.truths.append(1 - float(ndtr((of_row - limit) / math.sqrt(1 - WITHIN + moved**2)).sum()) / IMAGES)
    return made


def rate(worlds: int, seed: int, happens: Callable[[np.random.Generator], bool]) -> float:
    """Return in what share of `worlds` something happens."""
    return sum(happens(np.random.default_rng([seed, number])) for number in range(worlds)) / worlds


# --- what may be wrong ------------------------------------------------------------------------------------


def false_certificate(generator: np.random.Generator, spread: float = 0.0) -> bool:
    """Whether a network whose mean is just the target's is certified at one of the looks."""
    made = world(generator, [LOOKS[-1]], spreads=[spread])
    return any(bound_at_look(made.right[0][:count]) > made.truths[0] for count in LOOKS)


def false_certificate_of_many_looks(generator: np.random.Generator, spread: float = 0.0) -> bool:
    """Likewise at a level of 0.05 and looked at after every seed from the tenth on, as before there were two looks."""
    made = world(generator, [LOOKS[-1]], spreads=[spread])
    (scores,) = made.scores
    return any((lower_bound(scores[:count]) or 0) > made.truths[0] for count in range(LOOKS[0], LOOKS[1] + 1))


def false_leader(generator: np.random.Generator, rows: int, seeds: int, spreads: Sequence[float] | None = None) -> bool:
    """Whether the bound of the first of many equally good rows of one class is above what it speaks of."""
    drawn = spreads and generator.permutation(np.resize(spreads, rows)).tolist()
    made = world(generator, [seeds] * rows, spreads=drawn)
    above = [float(right.mean()) - truth for right, truth in zip(made.right, made.truths, strict=True)]
    first = above.index(max(above))  # as if the truths were equal on these images, too
    return leader_bound(made.right[first], made.scores, rows) > made.truths[first]


def false_bound_on_new_images(generator: np.random.Generator, seeds: int) -> bool:
    """Whether a row's bound on new images is above its accuracy there."""
    return (bound_on_new_images(world(generator, [seeds]).right[0]) or 0) > 1 - ERROR


def false_pair(
    generator: np.random.Generator,
    seeds: tuple[int, int],
    between: float = BETWEEN,
    spreads: Sequence[float] | None = None,
) -> bool:
    """Whether one of two equally good networks is called better: a pair with a plan of its own, and ``--confirm``."""
    found = compare(*world(generator, seeds, between=between, spreads=spreads).right)
    return judge(found.difference, found.p, min(seeds)) != "cannot tell yet"


def false_of_many_looks(generator: np.random.Generator, looks: Sequence[int]) -> bool:
    """Likewise, where the pair is looked at again with more seeds until there is a verdict."""
    first, second = world(generator, [looks[-1]] * 2).right
    found = {count: compare(first[:count], second[:count]) for count in looks}
    return any(judge(each.difference, each.p, count) != "cannot tell yet" for count, each in found.items())


def false_confirmation_of_seeds(generator: np.random.Generator, seeds: int) -> bool:
    """Likewise by the interval of the seeds' paired differences, as ``--confirm`` did before."""
    first, second = world(generator, [seeds, seeds]).scores
    found = summarise([a - b for a, b in zip(first, second, strict=True)])
    return found.low is not None and found.high is not None and (found.low > 0 or found.high < 0)


def _ranked(generator: np.random.Generator, rows: int, seeds: int) -> list[np.ndarray]:
    return sorted(world(generator, [seeds] * rows).right, key=lambda right: -right.mean())


def _pairs(ranked: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(a, b) for place, a in enumerate(ranked) for b in ranked[place + 1 :]]


def false_among_leaders(generator: np.random.Generator, rows: int, seeds: int) -> bool:
    """Whether any pair of the first five of many equally good rows gets a verdict."""
    found = [compare(*pair).p or 0.0 for pair in _pairs(_ranked(generator, rows, seeds)[:LEADERS])]
    return min(holm(found)) < 0.05


def false_asked(generator: np.random.Generator, rows: int, seeds: int) -> bool:
    """Whether the pair that looks most different, the first and the last row, gets a verdict when it is requested."""
    ranked = _ranked(generator, rows, seeds)
    return holm([compare(ranked[0], ranked[-1]).p or 0.0], math.comb(rows, 2))[0] < 0.05


def false_planned_after_a_look(
    generator: np.random.Generator, rows: int, seeds: int, new: bool, adjusted: bool = True
) -> bool:
    """Whether a plan's new seeds call one better of two equally good networks, picked for how they looked before it.

    Args:
        new: compare the first row with a network that had not been scored, else with the last row.
    """
    made = world(generator, [2 * seeds] * (rows + 1)).right
    scored = sorted(made[:rows], key=lambda right: right[:seeds].mean())
    found = compare(scored[-1][seeds:], (made[rows] if new else scored[0])[seeds:])
    among = rows if new else math.comb(rows, 2)
    p = holm([found.p or 0.0], among if adjusted else 1)[0]
    return judge(found.difference, p, seeds) != "cannot tell yet"


def shown(generator: np.random.Generator, seeds: int, gap: float, pairs: int, between: float = BETWEEN) -> bool:
    """Whether a true gap, in points on new images, shows in the first of so many `pairs`."""
    errors = (ERROR - gap / 200, ERROR + gap / 200)
    found = compare(*world(generator, [seeds, seeds], errors, between).right)
    return judge(found.difference, holm([found.p or 0.0], pairs)[0], seeds) == "better"


# --- the tables -------------------------------------------------------------------------------------------


def _spreads(values: Sequence[float] = RECORDED) -> list[float]:
    return [math.sqrt(max(value**2 - 0.048**2, 0)) for value in values]


def error_rates(worlds: int, seed: int) -> Iterator[tuple[str, str, float]]:
    """Yield what is claimed, in what world, and how often it is false."""
    for spread in (0.0, 0.03, 0.06):
        said = f"the target's own mean, seeds spread by {math.hypot(0.048, spread):.3f}"
        yield "certificate, two looks", said, rate(worlds, seed, lambda g, s=spread: false_certificate(g, s))
        yield (
            "(before: 0.05, a look at every seed from 10 to 20)",
            said,
            rate(worlds, seed, lambda g, s=spread: false_certificate_of_many_looks(g, s)),
        )
    for rows in (14, 40):
        for seeds in (3, 10):
            yield (
                "bound of a class leader",
                f"{rows} equal rows, {seeds} seeds",
                rate(worlds, seed, lambda g, r=rows, n=seeds: false_leader(g, r, n)),
            )
            yield (
                "bound of a class leader",
                f"{rows} rows, {seeds} seeds, spreads as recorded",
                rate(worlds, seed, lambda g, r=rows, n=seeds: false_leader(g, r, n, _spreads())),
            )
    for seeds in (3, 10):
        yield (
            "bound on new images",
            f"{seeds} seeds",
            rate(worlds, seed, lambda g, n=seeds: false_bound_on_new_images(g, n)),
        )
    for rows in (14, 40):
        for seeds in (3, 10):
            where = f"{rows} equal rows, {seeds} seeds"
            yield (
                "pairs of the board",
                where,
                rate(worlds, seed, lambda g, r=rows, n=seeds: false_among_leaders(g, r, n)),
            )
            yield "the pair asked for", where, rate(worlds, seed, lambda g, r=rows, n=seeds: false_asked(g, r, n))
    for new, pair in ((False, "the first and the last of 14 rows"), (True, "the first of 14 rows and a new network")):
        for adjusted, claim in ((True, "a pair planned after a look"), (False, "(the same, if new seeds were enough)")):
            yield (
                claim,
                f"{pair}, 10 seeds, then 10 new ones",
                rate(worlds, seed, lambda g, n=new, a=adjusted: false_planned_after_a_look(g, 14, 10, n, a)),
            )
    for between, said in ((BETWEEN, "images as recorded"), (APART, "as the least alike")):
        for pair in ((3, 3), (3, 10), (5, 5), (10, 10), (20, 20)):
            yield (
                "a planned pair, and --confirm",
                f"{pair[0]} and {pair[1]} seeds, {said}",
                rate(worlds, seed, lambda g, p=pair, b=between: false_pair(g, p, b)),
            )
    for pair in ((3, 3), (3, 10), (10, 10)):
        yield (
            "a planned pair, and --confirm",
            f"{pair[0]} and {pair[1]} seeds, spread by 0.116 and 0.048",
            rate(worlds, seed, lambda g, p=pair: false_pair(g, p, spreads=[math.sqrt(0.116**2 - 0.048**2), 0.0])),
        )
    yield (
        "(a pair that is looked at again and again)",
        "with 3, 4, 5, 6, 8, 10, 12, 15 and 20 seeds",
        rate(worlds, seed, lambda g: false_of_many_looks(g, (3, 4, 5, 6, 8, 10, 12, 15, 20))),
    )
    for seeds in (5, 10, 20):
        yield (
            "(--confirm before: seeds alone)",
            f"{seeds} seeds each",
            rate(worlds, seed, lambda g, n=seeds: false_confirmation_of_seeds(g, n)),
        )


def powers(worlds: int, seed: int) -> Iterator[tuple[float, int, float, float]]:
    """Yield a true gap in points, the seeds each, and how often it shows alone and among ten pairs."""
    for gap in (0.05, 0.10, 0.15):
        for seeds in (5, 10, 20):
            alone, among = (
                rate(worlds, seed, lambda g, n=seeds, x=gap, p=pairs: shown(g, n, x, p)) for pairs in (1, 10)
            )
            yield gap, seeds, alone, among


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", type=int, default=2_000, metavar="N", help="made-up worlds a line (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    args = parser.parse_args()
    print(f"{args.worlds:,} worlds a line, seed {args.seed}\n\n| what is claimed | of what | false |\n|---|---|--:|")
    for claim, where, found in error_rates(args.worlds, args.seed):
        print(f"| {claim} | {where} | {100 * found:.1f} % |", flush=True)
    print("\n| true gap | seeds each | shows alone | among ten pairs |\n|--:|--:|--:|--:|")
    for gap, seeds, alone, among in powers(args.worlds, args.seed):
        print(f"| {gap:.2f} | {seeds} | {100 * alone:.0f} % | {100 * among:.0f} % |", flush=True)


if __name__ == "__main__":
    main()
