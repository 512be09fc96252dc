import math
import random
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.statistics import MOST_SEEDS, Comparison, compare, holm, lower_bound, luck, mcnemar, summarise

ACCURACIES = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40)


@given(values=ACCURACIES, confidence=st.floats(0.5, 0.999))
def test_the_interval_is_scipys_student_t(values: list[float], confidence: float) -> None:
    found = summarise(values, confidence)
    spread = np.std(values, ddof=1)
    assert found.n == len(values)
    assert found.mean == pytest.approx(np.mean(values), rel=1e-9, abs=1e-7)
    assert found.std == pytest.approx(spread, rel=1e-9, abs=1e-7)
    if spread > 1e-6:
        low, high = stats.t.interval(confidence, len(values) - 1, np.mean(values), stats.sem(values))
        assert found.low == pytest.approx(low, rel=1e-9, abs=1e-6)
        assert found.high == pytest.approx(high, rel=1e-9, abs=1e-6)


def test_five_accuracies_by_hand() -> None:
    found = summarise([0.994, 0.995, 0.996, 0.995, 0.995])
    assert found.n == 5
    assert found.mean == pytest.approx(0.995)
    assert found.std == pytest.approx(math.sqrt(2e-6 / 4))
    assert found.high is not None
    assert found.high - found.mean == pytest.approx(2.7764451 * math.sqrt(2e-6 / 4 / 5), rel=1e-6)  # t table, 4 d.f.


@given(values=ACCURACIES, shuffle=st.randoms(use_true_random=False))
def test_the_order_of_the_seeds_does_not_move_a_bit(values: list[float], shuffle: random.Random) -> None:
    others = list(values)
    shuffle.shuffle(others)
    assert summarise(others) == summarise(values)


@given(values=ACCURACIES)
def test_the_mean_lies_in_the_middle_of_its_interval(values: list[float]) -> None:
    found = summarise(values)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.mean <= found.high
    assert found.high - found.mean == pytest.approx(found.mean - found.low, rel=1e-6, abs=1e-6)


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_one_seed_has_a_mean_and_no_spread(value: float) -> None:
    found = summarise([value])
    assert (found.n, found.mean, found.std, found.low, found.high) == (1, value, None, None, None)


def test_no_seeds_have_no_summary() -> None:
    with pytest.raises(ValueError, match="empty sample"):
        summarise([])


@pytest.mark.parametrize("size", [3, 5])
def test_the_interval_holds_the_true_mean_95_times_in_100(size: int) -> None:
    generator = np.random.default_rng(2024)
    samples = generator.normal(0.994, 0.0005, (4_000, size)).tolist()
    inside = [found.low <= 0.994 <= found.high for found in map(summarise, samples)]  # type: ignore[operator]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.012)  # 3.5 standard errors


@given(accuracy=st.floats(0.01, 0.99), images=st.integers(10, 100_000), candidates=st.integers(1, 200))
@settings(max_examples=30)
def test_luck_grows_with_candidates_and_shrinks_with_images(accuracy: float, images: int, candidates: int) -> None:
    assert luck(accuracy, images, candidates) < luck(accuracy, images, candidates + 1)
    assert luck(accuracy, 4 * images, candidates) == pytest.approx(luck(accuracy, images, candidates) / 2, abs=1e-9)


def test_luck_is_what_a_simulation_gives() -> None:
    scores = np.random.default_rng(0).binomial(10_000, 0.99, size=(20_000, 20)) / 10_000
    assert luck(0.99, 10_000, 20) == pytest.approx(scores.max(1).mean() - 0.99, rel=0.03)
    assert luck(0.99, 10_000, 1) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("images", "candidates"), [(0, 1), (1, 0)])
def test_luck_needs_images_and_candidates(images: int, candidates: int) -> None:
    with pytest.raises(ValueError, match="needs"):
        luck(0.9, images, candidates)


# --- comparisons ------------------------------------------------------------------------------------------

IMAGES = 10_000
HARD = 150
"""Images that some seeds get wrong; everybody answers the others rightly."""


def chances(generator: np.random.Generator, gap: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return two networks' chances to err at each hard image: the same ones, but for a gap in mean accuracy."""
    first = 1 / (1 + np.exp(-generator.normal(-0.2, 1.5, HARD)))
    return first, np.clip(first + gap * IMAGES / HARD, 0, 1)


def answered(generator: np.random.Generator, chance: np.ndarray, seeds: int) -> np.ndarray:
    right = np.ones((seeds, IMAGES), dtype=bool)
    right[:, :HARD] = generator.random((seeds, HARD)) >= chance
    return right


def simulated(count: int, seeds: int, gap: float = 0.0) -> list[tuple[float, Comparison]]:
    """Return (true difference, comparison) of `count` pairs of networks, the second worse by about `gap`."""
    generator, found = np.random.default_rng(0), []
    for _ in range(count):
        first, second = chances(generator, gap)
        found.append(
            (
                float(second.sum() - first.sum()) / IMAGES,
                compare(answered(generator, first, seeds), answered(generator, second, seeds)),
            )
        )
    return found


ANSWERS = st.tuples(st.integers(2, 6), st.integers(2, 6), st.integers(0, 2**32 - 1)).map(
    lambda drawn: tuple(
        np.random.default_rng(drawn[2] + arm).random((seeds, 200)) > 0.1 for arm, seeds in enumerate(drawn[:2])
    )
)


class TestCompare:
    @pytest.mark.parametrize("seeds", [3, 5, 20])
    def test_the_interval_covers_the_truth_at_least_95_times_in_100(self, seeds: int) -> None:
        found = simulated(150, seeds, 0.0005)
        covered = [(c.low or 0) <= truth <= (c.high or 0) for truth, c in found]
        assert np.mean(covered) >= 0.95

    @pytest.mark.parametrize("seeds", [2, 3, 10])
    def test_identical_networks_cannot_be_told_apart_at_least_95_times_in_100(self, seeds: int) -> None:
        assert np.mean([(c.p or 0) >= 0.05 for _, c in simulated(150, seeds)]) >= 0.95

    @pytest.mark.parametrize(("few", "many"), [(2, 20), (3, 20), (3, 10)])
    def test_few_seeds_that_agree_by_luck_do_not_win_against_many(self, few: int, many: int) -> None:
        """Equal recipes whose seeds differ far more than images explain."""
        generator, verdicts = np.random.default_rng(0), []
        for _ in range(150):
            arms = []
            for seeds in (few, many):
                right = np.ones((seeds, 2_000), dtype=bool)
                for row in right:
                    wrong = max(0, round(generator.normal(60, 12)))
                    row[generator.choice(2_000, wrong, replace=False)] = False
                arms.append(right)
            verdicts.append((compare(*arms).p or 1) < 0.05)
        assert np.mean(verdicts) <= 0.07  # 5 % but for the luck of 150 simulations

    def test_a_tenth_of_a_point_shows_with_20_seeds_at_least_80_times_in_100(self) -> None:
        found = simulated(100, 20, 0.001)
        assert np.mean([(c.p or 1) < 0.05 and c.difference > 0 for _, c in found]) >= 0.8

    def test_the_number_of_seeds_it_asks_for_would_settle_it(self) -> None:
        asked = [c.seeds for _, c in simulated(20, 5, 0.001) if c.seeds]
        seeds = int(np.median(asked))
        assert len(asked) > 15
        shown = [(c.p or 1) < 0.05 for _, c in simulated(60, seeds, 0.001)]
        assert 0.6 <= np.mean(shown) <= 1.0
        assert np.mean([(c.p or 1) < 0.05 for _, c in simulated(60, max(seeds // 3, 2), 0.001)]) < np.mean(shown)

    @given(arms=ANSWERS)
    @settings(max_examples=30)
    def test_the_other_way_round_it_is_the_exact_opposite(self, arms: tuple[np.ndarray, np.ndarray]) -> None:
        there, back = compare(*arms), compare(*arms[::-1])
        assert back.difference == -there.difference
        if there.difference:
            assert (back.low, back.high) == (-(there.high or 0), -(there.low or 0))
            assert (back.p, back.seeds) == (there.p, there.seeds)

    @given(arms=ANSWERS, seed=st.integers(0, 1_000))
    @example(arms=tuple(np.random.default_rng(216 + arm).random((3 - arm, 200)) > 0.1 for arm in range(2)), seed=1)  # 0
    @settings(max_examples=30)
    def test_the_order_of_seeds_and_images_makes_no_difference(
        self, arms: tuple[np.ndarray, np.ndarray], seed: int
    ) -> None:
        generator = np.random.default_rng(seed)
        images = generator.permutation(200)
        a, b = (generator.permutation(arm)[:, images] for arm in arms)
        once, again = (astuple(compare(*pair)) for pair in (arms, (a, b)))
        assert [value or 0 for value in again] == pytest.approx([value or 0 for value in once], rel=1e-9, abs=1e-12)

    @given(arms=ANSWERS)
    @settings(max_examples=30)
    def test_the_interval_leaves_out_0_where_p_is_below_5_percent(self, arms: tuple[np.ndarray, np.ndarray]) -> None:
        found = compare(*arms)
        assert ((found.low or 0) > 0 or (found.high or 0) < 0) == ((found.p or 0) < 0.05)

    def test_the_error_is_that_of_both_levels(self) -> None:
        """Seeds and images drawn at random, over and over, from a world whose chances are known."""
        generator = np.random.default_rng(1)
        first, second = chances(generator, 0.001)
        made = [compare(answered(generator, first, 20), answered(generator, second, 20)) for _ in range(60)]
        spread = np.std([c.difference for c in made], ddof=1)
        error = np.median([((c.high or 0) - (c.low or 0)) / 2 / stats.norm.ppf(0.975) for c in made])
        assert spread < error < 3 * spread  # the images at hand are a sample, too: more than the seeds' spread alone

    def test_a_single_seed_has_a_difference_and_no_interval(self) -> None:
        right = np.ones((1, 100), dtype=bool)
        wrong = right.copy()
        wrong[0, :10] = False
        assert compare(right, wrong) == Comparison(pytest.approx(0.1), None, None, None, None)

    def test_networks_that_always_answer_alike_do_not_differ(self) -> None:
        right = np.random.default_rng(0).random((1, 100)).repeat(3, 0) > 0.1
        assert compare(right, right) == Comparison(0.0, 0.0, 0.0, 1.0, None)

    def test_answers_to_other_images_are_refused(self) -> None:
        with pytest.raises(ValueError, match="cannot compare"):
            compare(np.ones((3, 100), dtype=bool), np.ones((3, 99), dtype=bool))

    def test_what_no_number_of_seeds_settles_is_said(self) -> None:
        """Each is right where the other is wrong, on every second image, but for two: the images are too few."""
        generator = np.random.default_rng(0)
        even = np.arange(100) % 2 == 0
        a = np.stack([even ^ (generator.random(100) < 0.02) for _ in range(10)])
        found = compare(a, ~a)
        assert found.p is not None
        assert found.p > 0.05
        assert found.seeds is None
        assert MOST_SEEDS == 1_000


@given(values=st.lists(st.floats(0, 1), max_size=12), shuffle=st.randoms(use_true_random=False))
def test_holm_keeps_the_order_never_lowers_and_does_not_depend_on_places(
    values: list[float], shuffle: random.Random
) -> None:
    adjusted = holm(values)
    assert all(low <= high <= 1 for low, high in zip(values, adjusted, strict=True))
    ranked = sorted(zip(values, adjusted, strict=True))
    assert [high for _, high in ranked] == sorted(adjusted)
    places = list(range(len(values)))
    shuffle.shuffle(places)
    assert holm([values[place] for place in places]) == [adjusted[place] for place in places]


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


@given(only_a=st.integers(0, 40), only_b=st.integers(0, 40))
def test_mcnemar_is_the_binomial_test_of_the_discordant_images(only_a: int, only_b: int) -> None:
    a = np.array([True] * only_a + [False] * only_b + [True] * 5)
    b = np.array([False] * only_a + [True] * only_b + [True] * 5)
    both = 2 * stats.binom.cdf(min(only_a, only_b), only_a + only_b, 0.5)
    assert mcnemar(a, b) == pytest.approx(min(both, 1.0))
    assert mcnemar(b, a) == pytest.approx(mcnemar(a, b))


def test_the_lower_bound_is_one_sided() -> None:
    scores = [0.994, 0.995, 0.996, 0.995, 0.995]
    assert lower_bound(scores) == pytest.approx(0.995 - 2.1318468 * math.sqrt(2e-6 / 4 / 5), rel=1e-9)  # t table
    assert lower_bound([0.995]) is None
