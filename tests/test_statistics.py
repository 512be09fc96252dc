import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.statistics import luck, summarise

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
