"""Means, bounds and comparisons: exact where a formula says so, and as often wrong as is said where luck decides."""

from __future__ import annotations

import math
import random
from dataclasses import astuple

import error_rates
import numpy as np
import pytest
from error_rates import APART, BETWEEN, rate, world
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.statistics import (
    LOOKS,
    MOST_SEEDS,
    Comparison,
    bound_at_look,
    bound_on_new_images,
    compare,
    expected_selection_gain,
    holm,
    judge,
    leader_bound,
    lower_bound,
    mcnemar,
    summarise,
)

WORLDS = 300
"""Made-up worlds behind a rate: of 5 % it is then known to 1.3 points."""

SURELY_ABOVE = 0.05 + 3 * math.sqrt(0.05 * 0.95 / WORLDS)
"""A rate that luck alone takes 5 % to once in a thousand times."""

ACCURACIES = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40)


@given(values=ACCURACIES, confidence=st.floats(0.5, 0.999))
def test_interval_matches_scipy_student_t(values: list[float], confidence: float) -> None:
    found = summarise(values, confidence)
    spread = np.std(values, ddof=1)
    assert found.n == len(values)
    assert found.mean == pytest.approx(np.mean(values), rel=1e-9, abs=1e-7)
    assert found.std == pytest.approx(spread, rel=1e-9, abs=1e-7)
    if spread > 1e-6:
        low, high = stats.t.interval(confidence, len(values) - 1, np.mean(values), stats.sem(values))
        assert found.low == pytest.approx(low, rel=1e-9, abs=1e-6)
        assert found.high == pytest.approx(high, rel=1e-9, abs=1e-6)


def test_five_accuracies_match_hand_computation() -> None:
    found = summarise([0.994, 0.995, 0.996, 0.995, 0.995])
    assert found.n == 5
    assert found.mean == pytest.approx(0.995)
    assert found.std == pytest.approx(math.sqrt(2e-6 / 4))
    assert found.high is not None
    assert found.high - found.mean == pytest.approx(2.7764451 * math.sqrt(2e-6 / 4 / 5), rel=1e-6)  # t table, 4 d.f.


@given(values=ACCURACIES, shuffle=st.randoms(use_true_random=False))
def test_seed_order_changes_no_bit(values: list[float], shuffle: random.Random) -> None:
    others = list(values)
    shuffle.shuffle(others)
    assert summarise(others) == summarise(values)


@given(values=ACCURACIES)
def test_mean_is_centre_of_interval(values: list[float]) -> None:
    found = summarise(values)
    if min(values) == max(values):
        return
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.mean <= found.high
    assert found.high - found.mean == pytest.approx(found.mean - found.low, rel=1e-6, abs=1e-6)


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_one_seed_has_no_spread(value: float) -> None:
    found = summarise([value])
    assert (found.n, found.mean, found.std, found.low, found.high) == (1, value, None, None, None)


@given(value=st.floats(0, 1), n=st.integers(2, 20))
def test_equal_scores_have_no_interval(value: float, n: int) -> None:
    found = summarise([value] * n)
    assert (found.mean, found.std, found.low, found.high) == (value, 0.0, None, None)
    assert lower_bound([value] * n) is None


def test_no_seeds_have_no_summary() -> None:
    with pytest.raises(ValueError, match="empty sample"):
        summarise([])


@pytest.mark.parametrize("size", [3, 5])
def test_interval_covers_mean_in_95_percent(size: int) -> None:
    generator = np.random.default_rng(2024)
    samples = generator.normal(0.994, 0.0005, (4_000, size)).tolist()
    inside = [found.low <= 0.994 <= found.high for found in map(summarise, samples)]  # type: ignore[operator]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.012)  # 3.5 standard errors


@given(accuracy=st.floats(0.01, 0.99), images=st.integers(10, 100_000), candidates=st.integers(1, 200))
@settings(max_examples=30)
def test_selection_gain_follows_candidates_and_images(accuracy: float, images: int, candidates: int) -> None:
    assert expected_selection_gain(accuracy, images, candidates) < expected_selection_gain(
        accuracy, images, candidates + 1
    )
    assert expected_selection_gain(accuracy, 4 * images, candidates) == pytest.approx(
        expected_selection_gain(accuracy, images, candidates) / 2, abs=1e-9
    )


def test_selection_gain_matches_simulation() -> None:
    scores = np.random.default_rng(0).binomial(10_000, 0.99, size=(20_000, 20)) / 10_000
    assert expected_selection_gain(0.99, 10_000, 20) == pytest.approx(scores.max(1).mean() - 0.99, rel=0.03)
    assert expected_selection_gain(0.99, 10_000, 1) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("images", "candidates"), [(0, 1), (1, 0)])
def test_selection_gain_needs_images_and_candidates(images: int, candidates: int) -> None:
    with pytest.raises(ValueError, match="needs"):
        expected_selection_gain(0.9, images, candidates)


# --- bounds -----------------------------------------------------------------------------------------------


def test_lower_bound_is_one_sided() -> None:
    scores = [0.994, 0.995, 0.996, 0.995, 0.995]
    assert lower_bound(scores) == pytest.approx(0.995 - 2.1318468 * math.sqrt(2e-6 / 4 / 5), rel=1e-9)  # t table
    assert lower_bound([0.995]) is None


def answers(wrong: list[int], images: int = 10_000) -> np.ndarray:
    """Return (seeds, images) answers, each seed wrong at so many images of its own."""
    right = np.ones((len(wrong), images), dtype=bool)
    start = 0
    for seed, count in enumerate(wrong):
        right[seed, start : start + count] = False
        start += count
    return right


def test_look_uses_student_t_at_its_level() -> None:
    wrong = [10, 80, 10, 80, 10, 80, 10, 80, 10, 80]
    scores = [1 - count / 10_000 for count in wrong]
    error = np.std(scores, ddof=1) / math.sqrt(10)
    assert bound_at_look(answers(wrong)) == pytest.approx(np.mean(scores) - 2.150375 * error, rel=1e-7)  # t, 9 d.f.


def test_equal_scores_take_spread_of_answers() -> None:
    found = bound_at_look(answers([50] * 10))
    error = math.sqrt(50 / 10_000 / 10_000 / 10)  # fifty images of a seed alone: a share of a tenth, of n - 1
    assert found == pytest.approx(0.995 - 2.150375 * error, rel=1e-5)


def test_certificate_errs_at_most_5_percent() -> None:
    for spread in (0.0, 0.03):
        assert rate(WORLDS, 0, lambda g, s=spread: error_rates.false_certificate(g, s)) <= SURELY_ABOVE


def test_looking_after_every_seed_errs_more_often() -> None:
    assert rate(WORLDS, 0, error_rates.false_certificate_of_many_looks) > SURELY_ABOVE


@pytest.mark.parametrize(("rows", "worlds"), [(14, WORLDS), pytest.param(40, WORLDS // 3, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("seeds", [3, 10])
def test_leader_bound_errs_at_most_5_percent(rows: int, worlds: int, seeds: int) -> None:
    found = rate(worlds, 0, lambda g: error_rates.false_leader(g, rows, seeds))
    assert found <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / worlds)


def test_leader_with_equal_scores_takes_pooled_spread() -> None:
    lucky, others = answers([50, 50, 50]), [[0.993, 0.994, 0.995], [0.980, 0.991, 0.992]]
    scores = lucky.mean(1).tolist()
    found = leader_bound(lucky, [scores, *others], rows=1)
    squares = 2e-6 + sum((each - np.mean(others[1])) ** 2 for each in others[1])
    assert found == pytest.approx(0.995 - stats.t.ppf(0.98, 6) * math.sqrt(squares / 6 / 3), rel=1e-9)
    assert leader_bound(lucky, [scores, *others], rows=2) < found


def test_leader_among_equal_scores_takes_answer_spread() -> None:
    lucky = answers([50, 50, 50])
    found = leader_bound(lucky, [lucky.mean(1).tolist()], rows=1)
    assert found == pytest.approx(0.995 - stats.t.ppf(0.98, 2) * math.sqrt(0.005 / 10_000 / 3), rel=1e-6)


@pytest.mark.parametrize("seeds", [3, 10])
def test_new_image_bound_errs_at_most_5_percent(seeds: int) -> None:
    assert rate(WORLDS, 0, lambda g: error_rates.false_bound_on_new_images(g, seeds)) <= SURELY_ABOVE


@given(wrong=st.lists(st.integers(0, 100), min_size=2, max_size=6))
@settings(max_examples=50)
def test_new_image_bound_is_never_higher(wrong: list[int]) -> None:
    right = answers(wrong, 1_000)
    here, elsewhere = lower_bound(right.mean(1).tolist()), bound_on_new_images(right)
    assert elsewhere is not None
    assert 0 <= elsewhere < right.mean() + 1e-12
    assert here is None or elsewhere <= max(here, 0)


def test_single_seed_has_no_new_image_bound() -> None:
    assert bound_on_new_images(answers([50])) is None


# --- comparisons ------------------------------------------------------------------------------------------


def test_simulated_networks_resemble_recorded_ones() -> None:
    """The standard error that images alone give a pair: recorded 0.034 points in the median, of 91 pairs."""
    generator = np.random.default_rng(0)
    for between, expected in ((BETWEEN, 0.034), (APART, 0.045)):
        gaps = []
        for _ in range(200):
            first, second = world(generator, [1, 1], between=between).truths
            gaps.append(100 * (first - second))
        assert np.std(gaps) == pytest.approx(expected, rel=0.2)


ANSWERS = st.tuples(st.integers(2, 6), st.integers(2, 6), st.integers(0, 2**32 - 1)).map(
    lambda drawn: tuple(
        np.random.default_rng(drawn[2] + arm).random((seeds, 200)) > 0.1 for arm, seeds in enumerate(drawn[:2])
    )
)


class TestCompare:
    @pytest.mark.parametrize("between", [BETWEEN, APART])
    @pytest.mark.parametrize("seeds", [(2, 20), (3, 3), (3, 10), (5, 5), (20, 20)])
    def test_equal_networks_differ_at_most_5_percent(self, seeds: tuple[int, int], between: float) -> None:
        def differs(generator: np.random.Generator) -> bool:
            p = compare(*world(generator, seeds, between=between).right).p
            assert p is not None
            return p < 0.05

        assert rate(WORLDS, 0, differs) <= SURELY_ABOVE

    @pytest.mark.parametrize("seeds", [3, 10])
    def test_interval_covers_truth_in_95_percent(self, seeds: int) -> None:
        def is_missed(generator: np.random.Generator) -> bool:
            found = compare(*world(generator, [seeds] * 2, [0.005, 0.0055]).right)
            assert found.low is not None
            assert found.high is not None
            return not found.low <= 0.0005 <= found.high

        assert rate(WORLDS, 0, is_missed) <= SURELY_ABOVE

    def test_comparing_only_seeds_errs_more_often(self) -> None:
        assert rate(WORLDS, 0, lambda g: error_rates.false_confirmation_of_seeds(g, 20)) > 2 * SURELY_ABOVE

    @pytest.mark.parametrize(("few", "many"), [(2, 20), (3, 20), (3, 10)])
    def test_few_equal_seeds_do_not_beat_many(self, few: int, many: int) -> None:
        """Equal recipes whose seeds differ far more than images explain."""

        def wins(generator: np.random.Generator) -> bool:
            arms = []
            for seeds in (few, many):
                right = np.ones((seeds, 2_000), dtype=bool)
                for row in right:
                    wrong = max(0, round(generator.normal(60, 12)))
                    row[generator.choice(2_000, wrong, replace=False)] = False
                arms.append(right)
            p = compare(*arms).p
            assert p is not None
            return p < 0.05

        assert rate(WORLDS, 0, wins) <= SURELY_ABOVE

    def test_variance_matches_hand_computation(self) -> None:
        """Two seeds each, four images: the images' part is below that of one image, which is then taken."""
        a = np.array([[1, 1, 1, 0], [1, 1, 0, 0]], dtype=bool)
        b = np.array([[1, 0, 0, 0], [1, 1, 0, 1]], dtype=bool)
        found = compare(a, b)
        assert found.difference == 0.125
        pooled, larger = 0.078125, 0.125  # of the scores 0.75, 0.5 and 0.25, 0.75 together, and of the latter alone
        error = math.sqrt(1 / 16 + pooled / 2 + larger / 2)
        freedom = error**4 / ((pooled / 2) ** 2 / 2 + (larger / 2) ** 2 / 1)
        assert found.high == pytest.approx(0.125 + stats.t.ppf(0.975, freedom) * error)
        assert found.p == pytest.approx(2 * stats.t.sf(0.125 / error, freedom))

    def test_variance_matches_observed_differences(self) -> None:
        """Of many worlds, each with other seeds and other images."""
        differences, variances = [], []
        for number in range(400):
            found = compare(*world(np.random.default_rng(number), [20, 20]).right)
            assert found.high is not None
            differences.append(found.difference)
            variances.append(((found.high - found.difference) / stats.norm.ppf(0.975)) ** 2)
        assert np.std(differences) == pytest.approx(math.sqrt(np.mean(variances)), rel=0.15)

    def test_power_is_as_documented(self) -> None:
        """docs/statistics.md: with 20 seeds each in about 80 % alone, and in about 45 % among ten pairs."""
        alone, among = (rate(WORLDS, 0, lambda g, p=pairs: error_rates.shown(g, 20, 0.1, p)) for pairs in (1, 10))
        assert 0.7 <= alone <= 0.9
        assert 0.3 <= among <= 0.6

    def test_suggested_seeds_settle_the_comparison(self) -> None:
        generator = np.random.default_rng(0)
        asked = [compare(*world(generator, [5, 5], [0.0045, 0.0065]).right).seeds for _ in range(40)]
        known = [count for count in asked if count]
        assert len(known) > 30
        seeds = max(round(np.median(known)), 3)
        assert rate(100, 0, lambda g: error_rates.shown(g, seeds, 0.2, 1)) >= 0.6

    @given(arms=ANSWERS)
    @settings(max_examples=30)
    def test_swapped_comparison_is_the_exact_opposite(self, arms: tuple[np.ndarray, np.ndarray]) -> None:
        there, back = compare(*arms), compare(*arms[::-1])
        assert back.difference == -there.difference
        assert (back.low, back.high) == (-(there.high or 0), -(there.low or 0))
        assert (back.p, back.seeds) == (there.p, there.seeds)

    @given(arms=ANSWERS, seed=st.integers(0, 1_000))
    @example(arms=tuple(np.random.default_rng(216 + arm).random((3 - arm, 200)) > 0.1 for arm in range(2)), seed=1)  # 0
    @settings(max_examples=30)
    def test_order_of_seeds_and_images_is_irrelevant(self, arms: tuple[np.ndarray, np.ndarray], seed: int) -> None:
        generator = np.random.default_rng(seed)
        images = generator.permutation(200)
        a, b = (generator.permutation(arm)[:, images] for arm in arms)
        once, again = (astuple(compare(*pair)) for pair in (arms, (a, b)))
        assert [value or 0 for value in again] == pytest.approx([value or 0 for value in once], rel=1e-9, abs=1e-12)

    @given(arms=ANSWERS)
    @settings(max_examples=30)
    def test_interval_and_p_value_agree(self, arms: tuple[np.ndarray, np.ndarray]) -> None:
        found = compare(*arms)
        assert found.low is not None
        assert found.high is not None
        assert found.p is not None
        assert (found.low > 0 or found.high < 0) == (found.p < 0.05)

    @given(arms=ANSWERS, repeated=st.booleans())
    @settings(max_examples=30)
    def test_every_interval_has_a_width(self, arms: tuple[np.ndarray, np.ndarray], repeated: bool) -> None:
        a, b = (arm[:1].repeat(3, 0) if repeated else arm for arm in arms)
        found = compare(a, b)
        assert found.low is not None
        assert found.high is not None
        assert found.high - found.low > 2 / 200

    def test_single_seed_has_no_interval(self) -> None:
        right = np.ones((1, 100), dtype=bool)
        wrong = right.copy()
        wrong[0, :10] = False
        assert compare(right, wrong) == Comparison(pytest.approx(0.1), None, None, None, None)

    def test_identical_answers_do_not_differ(self) -> None:
        right = np.random.default_rng(0).random((1, 100)).repeat(3, 0) > 0.1
        found = compare(right, right)
        assert (found.difference, found.p) == (0.0, 1.0)

    def test_mismatched_images_are_refused(self) -> None:
        with pytest.raises(ValueError, match="cannot compare"):
            compare(np.ones((3, 100), dtype=bool), np.ones((3, 99), dtype=bool))

    def test_unsettleable_comparison_suggests_no_seeds(self) -> None:
        """Each is right where the other is wrong, on every second image, but for two: the images are too few."""
        generator = np.random.default_rng(0)
        even = np.arange(100) % 2 == 0
        a = np.stack([even ^ (generator.random(100) < 0.02) for _ in range(10)])
        found = compare(a, ~a)
        assert found.p is not None
        assert found.p > 0.05
        assert found.seeds is None
        assert MOST_SEEDS == 1_000


@pytest.mark.parametrize(
    ("difference", "p", "seeds", "verdict"),
    [
        (0.1, 0.0, 3, "better"),
        (-0.1, 0.0, 3, "worse"),
        (0.1, 0.049, 3, "better"),
        (0.1, 0.05, 3, "cannot tell yet"),
        (0.1, 0.0, 2, "cannot tell yet"),
        (0.1, None, 3, "cannot tell yet"),
    ],
)
def test_verdict_needs_small_p_and_three_seeds(difference: float, p: float | None, seeds: int, verdict: str) -> None:
    assert judge(difference, p, seeds) == verdict


@pytest.mark.parametrize("seeds", [3, pytest.param(10, marks=pytest.mark.thorough)])
def test_equal_rows_differ_at_most_5_percent(seeds: int) -> None:
    for false in (error_rates.false_among_leaders, error_rates.false_asked):
        assert rate(WORLDS // 3, 0, lambda g, f=false: f(g, 14, seeds)) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 100)


@pytest.mark.thorough
@pytest.mark.parametrize("new", [False, True])
def test_new_seeds_do_not_undo_selection(new: bool) -> None:
    adjusted, by_itself = (
        rate(WORLDS // 2, 0, lambda g, a=adjusted: error_rates.false_planned_after_a_look(g, 14, 10, new, a))
        for adjusted in (True, False)
    )
    assert adjusted <= SURELY_ABOVE
    assert by_itself > 0.075


@pytest.mark.thorough
def test_repeated_looks_give_false_verdicts() -> None:
    """So the board says to decide on the number of seeds beforehand."""
    assert rate(WORLDS, 0, lambda g: error_rates.false_of_many_looks(g, range(3, 21))) > SURELY_ABOVE


def test_looks_are_at_10_and_20_seeds() -> None:
    assert LOOKS == (10, 20)


@given(values=st.lists(st.floats(0, 1), max_size=12), shuffle=st.randoms(use_true_random=False))
def test_holm_keeps_order_and_never_lowers(values: list[float], shuffle: random.Random) -> None:
    adjusted = holm(values)
    assert all(low <= high <= 1 for low, high in zip(values, adjusted, strict=True))
    ranked = sorted(zip(values, adjusted, strict=True))
    assert [high for _, high in ranked] == sorted(adjusted)
    places = list(range(len(values)))
    shuffle.shuffle(places)
    assert holm([values[place] for place in places]) == [adjusted[place] for place in places]


def test_holm_matches_hand_computation() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.01, 0.04, 0.03], among=10) == pytest.approx([0.1, 0.32, 0.27])


@given(values=st.lists(st.floats(0, 1), min_size=2, max_size=12), data=st.data())
def test_subset_is_adjusted_no_less(values: list[float], data: st.DataObject) -> None:
    some = data.draw(st.sets(st.integers(0, len(values) - 1), min_size=1))
    whole = holm(values)
    found = holm([values[place] for place in sorted(some)], among=len(values))
    assert all(value >= whole[place] for value, place in zip(found, sorted(some), strict=True))


@given(only_a=st.integers(0, 40), only_b=st.integers(0, 40))
def test_mcnemar_matches_binomial_test(only_a: int, only_b: int) -> None:
    a = np.array([True] * only_a + [False] * only_b + [True] * 5)
    b = np.array([False] * only_a + [True] * only_b + [True] * 5)
    both = 2 * stats.binom.cdf(min(only_a, only_b), only_a + only_b, 0.5)
    assert mcnemar(a, b) == pytest.approx(min(both, 1.0))
    assert mcnemar(b, a) == pytest.approx(mcnemar(a, b))
