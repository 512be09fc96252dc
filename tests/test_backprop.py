"""The exercise: hand-derived gradients are the gradients, and the workbook's numbers are reproduced."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.backprop import COLUMNS, WEIGHTS, Problem, Trajectory, fastest_stable, sweep, write_csv
from harness.backprop.network import DERIVATIVES, QUANTITIES, descend, evaluate, sigmoid
from harness.errors import UsageError

WORKBOOK = json.loads((Path(__file__).parent / "data" / "backprop_workbook.json").read_text())
NUMBERS = st.floats(-3, 3)
PROBLEMS = st.builds(
    Problem,
    inputs=st.tuples(NUMBERS, NUMBERS),
    targets=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    weights=st.tuples(*[NUMBERS] * 8),
)


def autograd(problem: Problem) -> tuple[float, list[float]]:
    """Return loss and gradient by torch, from the matrix form of the network."""
    weights = torch.tensor(problem.weights, dtype=torch.float64, requires_grad=True)
    hidden, output = weights[:4].view(2, 2), weights[4:].view(2, 2)
    answers = torch.sigmoid(output @ torch.sigmoid(hidden @ torch.tensor(problem.inputs, dtype=torch.float64)))
    loss = ((torch.tensor(problem.targets, dtype=torch.float64) - answers) ** 2).sum() / 2
    loss.backward()
    assert weights.grad is not None
    return loss.item(), weights.grad.tolist()


def finite_difference(problem: Problem, index: int, width: float = 1e-5) -> float:
    """Return the central difference of the loss along weight `index`."""

    def loss(shift: float) -> float:
        moved = [weight + shift * (number == index) for number, weight in enumerate(problem.weights)]
        return evaluate(problem, moved)["E_total"]

    return (loss(width) - loss(-width)) / (2 * width)


@given(PROBLEMS)
def test_hand_derived_gradients_match_autograd(problem: Problem) -> None:
    loss, gradient = autograd(problem)
    row = evaluate(problem, problem.weights)
    assert row["E_total"] == pytest.approx(loss, rel=1e-12, abs=1e-15)
    assert [row[name] for name in DERIVATIVES] == pytest.approx(gradient, rel=1e-9, abs=1e-14)


@given(PROBLEMS)
def test_hand_derived_gradients_match_central_differences(problem: Problem) -> None:
    row = evaluate(problem, problem.weights)
    for index, name in enumerate(DERIVATIVES):
        assert row[name] == pytest.approx(finite_difference(problem, index), abs=1e-8)


@pytest.mark.parametrize("rate", WORKBOOK["total_loss"])
def test_every_workbook_step_is_reproduced(rate: str) -> None:
    losses = [row["E_total"] for row in descend(Problem(), float(rate), 100).rows]
    assert len(losses) == len(WORKBOOK["total_loss"][rate]) == 101
    assert losses == pytest.approx(WORKBOOK["total_loss"][rate], rel=0, abs=1e-12)


def test_defaults_match_workbook() -> None:
    start = Problem()
    assert list(start.inputs) == WORKBOOK["inputs"]
    assert list(start.targets) == WORKBOOK["targets"]
    assert list(start.weights) == WORKBOOK["initial_weights"]


def test_other_targets_give_their_own_series() -> None:
    problem = Problem(targets=(0.5, 0.5))
    rows = descend(problem, 1.0, 100).rows
    loss, gradient = autograd(problem)
    assert rows[0]["E_total"] == pytest.approx(loss, abs=1e-15)
    assert rows[1]["w5"] == pytest.approx(0.40 - gradient[4], abs=1e-15)
    assert rows[-1]["E_total"] < 1e-4


@given(PROBLEMS, st.floats(0.01, 100), st.integers(1, 20))
def test_step_subtracts_the_previous_gradient(problem: Problem, lr: float, steps: int) -> None:
    rows = descend(problem, lr, steps).rows
    assert len(rows) == steps + 1
    for before, after in itertools.pairwise(rows):
        for weight, derivative in zip(WEIGHTS, DERIVATIVES, strict=True):
            assert after[weight] == before[weight] - lr * before[derivative]


@given(PROBLEMS, st.sampled_from([1e2, 1e4, 1e8, 1e50, 1e100]))
def test_numbers_stay_finite_at_any_rate(problem: Problem, lr: float) -> None:
    assert all(math.isfinite(value) for row in descend(problem, lr, 20).rows for value in row.values())


@given(st.floats(-1e6, 1e6))
def test_sigmoid_is_finite_and_symmetric(x: float) -> None:
    assert sigmoid(x) + sigmoid(-x) == pytest.approx(1.0, abs=1e-15)


@given(st.floats(1e-300, 1e100), st.floats(1e-300, 1e100))
def test_rate_names_are_unique_and_legal_in_mlflow(one: float, other: float) -> None:
    names = [Trajectory(lr, ()).rate for lr in (one, other)]
    assert [float(name) for name in names] == [one, other]
    assert all(re.fullmatch(r"[/\w.\- :]+", name) for name in names)


@pytest.mark.parametrize(("lr", "name"), [(2.0, "2"), (0.1, "0.1"), (1e6, "1000000"), (1e16, "1e16"), (1e-7, "1e-07")])
def test_rate_has_a_short_name(lr: float, name: str) -> None:
    assert Trajectory(lr, ()).rate == name


@pytest.mark.parametrize("lr", [0.0, -0.1, math.nan, math.inf])
def test_nonpositive_learning_rate_is_refused(lr: float) -> None:
    with pytest.raises(UsageError, match="learning rate"):
        descend(Problem(), lr, 10)


@pytest.mark.parametrize(
    "wrong",
    [
        {"weights": (0.1,) * 7},
        {"weights": (0.1,) * 9},
        {"inputs": (0.1,)},
        {"targets": (0.1, 0.2, 0.3)},
        {"inputs": (math.nan, 0.1)},
        {"targets": (math.inf, 0.1)},
    ],
)
def test_wrong_count_or_nonfinite_values_are_refused(wrong: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Problem(**wrong)


def test_zero_steps_and_duplicate_rates_are_refused() -> None:
    with pytest.raises(UsageError, match="steps"):
        descend(Problem(), 0.1, 0)
    with pytest.raises(UsageError, match="twice"):
        sweep(Problem(), (0.1, 0.1), 10)


def test_higher_default_rates_converge_faster() -> None:
    trajectories = sweep(Problem(), (0.1, 0.2, 0.5, 0.8, 1.0, 2.0), 100)
    losses = [trajectory.final_loss for trajectory in trajectories]
    assert losses == sorted(losses, reverse=True)
    assert {trajectory.state for trajectory in trajectories} == {"stable"}
    fastest = fastest_stable(trajectories)
    assert fastest is not None
    assert fastest.lr == 2.0
    assert [trajectory.steps_to(0.1) for trajectory in trajectories] == [None, 77, 31, 19, 16, 8]


def test_rising_loss_marks_rate_unstable() -> None:
    trajectories = sweep(Problem(targets=(0.5, 0.5)), (1.0, 128.0), 100)
    assert [trajectory.first_rise for trajectory in trajectories] == [None, 1]
    fastest = fastest_stable(trajectories)
    assert fastest is not None
    assert fastest.lr == 1.0


def test_converged_network_is_not_called_saturated() -> None:
    assert descend(Problem(), 1e6, 100).state == "saturated"
    assert descend(Problem(targets=(0.5, 0.5)), 8.0, 100).state == "stable"


def test_sweep_until_broken_doubles_rate_until_unstable() -> None:
    rates = [trajectory.lr for trajectory in sweep(Problem(targets=(0.5, 0.5)), (1.0, 2.0), 100, until_broken=True)]
    assert rates == [1, 2, 4, 8, 16, 32, 64, 128]
    assert sweep(Problem(), (2.0,), 100, until_broken=True)[-1].state == "saturated"


def test_no_stable_rate_gives_no_fastest() -> None:
    assert fastest_stable(sweep(Problem(targets=(0.5, 0.5)), (128.0,), 100)) is None


def test_csv_has_every_step_in_full_precision() -> None:
    trajectories = sweep(Problem(), (0.1, 2.0), 3)
    file = io.StringIO()
    write_csv(file, trajectories)
    rows = list(csv.DictReader(io.StringIO(file.getvalue())))
    assert list(rows[0]) == ["lr", "step", *COLUMNS]
    assert [(row["lr"], row["step"]) for row in rows] == [(lr, str(step)) for lr in ("0.1", "2.0") for step in range(4)]
    assert {column: float(rows[5][column]) for column in COLUMNS} == trajectories[1].rows[1]


def test_row_has_spreadsheet_columns() -> None:
    assert len(WEIGHTS) == len(DERIVATIVES) == 8
    assert QUANTITIES == ("h1", "h2", "a_h1", "a_h2", "o1", "o2", "a_o1", "a_o2", "E1", "E2", "E_total")
    row = evaluate(Problem(), Problem().weights)
    assert tuple(row) == COLUMNS
    assert row["h1"] == pytest.approx(0.15 * 0.05 + 0.20 * 0.1)
    assert row["E_total"] == row["E1"] + row["E2"]


def test_loss_met_at_start_needs_no_step() -> None:
    trajectory: Trajectory = descend(Problem(), 0.1, 5)
    assert trajectory.steps_to(1.0) == 0
    assert trajectory.steps_to(0.0) is None
