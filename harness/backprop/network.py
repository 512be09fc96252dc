"""The backpropagation exercise: a 2-2-2 sigmoid network, its hand-derived gradients, and a learning-rate sweep.

The network has no biases; s is the logistic function:

    h1 = w1 i1 + w2 i2    a_h1 = s(h1)    o1 = w5 a_h1 + w6 a_h2    a_o1 = s(o1)    E1 = (t1 - a_o1)^2 / 2
    h2 = w3 i1 + w4 i2    a_h2 = s(h2)    o2 = w7 a_h1 + w8 a_h2    a_o2 = s(o2)    E2 = (t2 - a_o2)^2 / 2

    E_total = E1 + E2,    w <- w - lr dE_total/dw

All numbers are Python floats (64 bits). Each derivative is on its own line, so that a student can compare it with
the chain rule. No autograd is used here; the tests compare the gradients with torch's.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from harness.errors import UsageError

WEIGHTS = tuple(f"w{number}" for number in range(1, 9))
DERIVATIVES = tuple(f"dE_d{weight}" for weight in WEIGHTS)
QUANTITIES = ("h1", "h2", "a_h1", "a_h2", "o1", "o2", "a_o1", "a_o2", "E1", "E2", "E_total")
COLUMNS = (*WEIGHTS, *QUANTITIES, *DERIVATIVES)
"""The columns of the exercise's spreadsheet, in its order."""

Row = dict[str, float]
"""The values of one step by the names of `COLUMNS`, before the update of that step."""

MOST_STEPS = 10_000
"""Most steps per learning rate: each step is kept and recorded, with 27 numbers."""

LARGEST = 1e100
"""Largest absolute value of any given number: larger ones could overflow."""

FLAT, LEARNED = 1e-7, 1e-6
"""The sigmoids count as saturated if all derivatives are below `FLAT` while the loss is above `LEARNED`. Near a
minimum the loss is about the square of the derivatives, so convergence is not mistaken for saturation."""

FASTEST_TRIED = 2.0**40
"""Learning rate at which the search for one that is too high, by doubling, stops."""


@dataclass(frozen=True)
class Problem:
    """The inputs, targets and initial weights of the network. The defaults are those of the exercise.

    Raises:
        UsageError: a field has the wrong number of values, or a value is not finite or above `LARGEST`.
    """

    inputs: tuple[float, ...] = (0.05, 0.1)
    targets: tuple[float, ...] = (0.01, 0.99)
    weights: tuple[float, ...] = (0.15, 0.20, 0.25, 0.30, 0.40, 0.45, 0.50, 0.55)

    def __post_init__(self) -> None:
        for name, count in (("inputs", 2), ("targets", 2), ("weights", 8)):
            values = getattr(self, name)
            if len(values) != count:
                raise UsageError(
                    f"{name} has {len(values)} numbers; the network needs {count}.",
                    hint=f"Example: --{name} {','.join(str(value) for value in getattr(Problem, name))}",
                )
            for value in values:
                if not abs(value) <= LARGEST:  # refuses NaN too
                    raise UsageError(
                        f"{name} cannot hold {value}.", allowed="Allowed: finite numbers of ordinary size."
                    )


@dataclass(frozen=True)
class Trajectory:
    """A training at one learning rate: `rows` has the values of steps 0, 1, ..., each before its update."""

    lr: float
    rows: tuple[Row, ...]

    @property
    def rate(self) -> str:
        """The learning rate as text, in full precision so that names are unique, and without a plus sign for MLflow."""
        return repr(self.lr).removesuffix(".0").replace("e+", "e")

    @property
    def final_loss(self) -> float:
        """Total loss after the last update."""
        return self.rows[-1]["E_total"]

    @property
    def first_rise(self) -> int | None:
        """The first step with a higher loss than the step before, or None."""
        losses = [row["E_total"] for row in self.rows]
        return next((step for step in range(1, len(losses)) if losses[step] > losses[step - 1]), None)

    @property
    def is_saturated(self) -> bool:
        """Whether it overshot to where the sigmoids are flat: a loss remains, but the derivatives are almost zero."""
        return self.final_loss > LEARNED and max(abs(self.rows[-1][name]) for name in DERIVATIVES) < FLAT

    @property
    def state(self) -> str:
        """Return ``unstable`` (the loss rises), ``saturated`` (learning stopped short) or ``stable``."""
        if self.first_rise is not None:
            return "unstable"
        return "saturated" if self.is_saturated else "stable"

    def steps_to(self, loss: float) -> int | None:
        """Return the first step with a total loss of at most `loss`, or None."""
        return next((step for step, row in enumerate(self.rows) if row["E_total"] <= loss), None)


def sigmoid(x: float) -> float:
    """Return 1 / (1 + exp(-x)) without overflow."""
    if x >= 0:
        return 1 / (1 + math.exp(-x))
    return math.exp(x) / (1 + math.exp(x))


def evaluate(problem: Problem, weights: Sequence[float]) -> Row:
    """Return every quantity and derivative of the network at `weights`."""
    i1, i2 = problem.inputs
    t1, t2 = problem.targets
    w1, w2, w3, w4, w5, w6, w7, w8 = weights

    h1 = w1 * i1 + w2 * i2
    h2 = w3 * i1 + w4 * i2
    a_h1 = sigmoid(h1)
    a_h2 = sigmoid(h2)
    o1 = w5 * a_h1 + w6 * a_h2
    o2 = w7 * a_h1 + w8 * a_h2
    a_o1 = sigmoid(o1)
    a_o2 = sigmoid(o2)
    E1 = (t1 - a_o1) ** 2 / 2
    E2 = (t2 - a_o2) ** 2 / 2

    # Back through the outputs: dE/do = dE/da_o  da_o/do, where s' = s (1 - s).
    dE_do1 = (a_o1 - t1) * a_o1 * (1 - a_o1)
    dE_do2 = (a_o2 - t2) * a_o2 * (1 - a_o2)
    # A hidden unit feeds both outputs, so the derivatives through both are added.
    dE_da_h1 = dE_do1 * w5 + dE_do2 * w7
    dE_da_h2 = dE_do1 * w6 + dE_do2 * w8
    # Back through the hidden units.
    dE_dh1 = dE_da_h1 * a_h1 * (1 - a_h1)
    dE_dh2 = dE_da_h2 * a_h2 * (1 - a_h2)

    gradient = (
        dE_dh1 * i1,  # dh1/dw1 = i1
        dE_dh1 * i2,  # dh1/dw2 = i2
        dE_dh2 * i1,  # dh2/dw3 = i1
        dE_dh2 * i2,  # dh2/dw4 = i2
        dE_do1 * a_h1,  # do1/dw5 = a_h1
        dE_do1 * a_h2,  # do1/dw6 = a_h2
        dE_do2 * a_h1,  # do2/dw7 = a_h1
        dE_do2 * a_h2,  # do2/dw8 = a_h2
    )
    quantities = (h1, h2, a_h1, a_h2, o1, o2, a_o1, a_o2, E1, E2, E1 + E2)
    return dict(zip(COLUMNS, (*weights, *quantities, *gradient), strict=True))


def descend(problem: Problem, lr: float, steps: int) -> Trajectory:
    """Run `steps` updates of gradient descent at learning rate `lr`.

    Raises:
        UsageError: the learning rate is not positive or too large, or the number of steps is not 1 to `MOST_STEPS`.
    """
    if not 0 < lr <= LARGEST:  # refuses NaN too
        raise UsageError(
            f"The learning rate {lr} cannot be used.",
            allowed=f"Allowed: above 0, at most {LARGEST:g}.",
            hint="Example: --lr 0.1,0.5,2.0",
        )
    if not 1 <= steps <= MOST_STEPS:
        raise UsageError(f"{steps} steps cannot be trained.", allowed=f"Allowed: 1 to {MOST_STEPS:,}.")
    rows = [evaluate(problem, problem.weights)]
    for _ in range(steps):
        row = rows[-1]
        rows.append(evaluate(problem, [row[w] - lr * row[d] for w, d in zip(WEIGHTS, DERIVATIVES, strict=True)]))
    return Trajectory(lr, tuple(rows))


def sweep(problem: Problem, rates: Sequence[float], steps: int, until_broken: bool = False) -> list[Trajectory]:
    """Descend at each rate; with `until_broken`, double the highest rate until it is no longer stable.

    Raises:
        UsageError: as for `descend`, or a rate is given twice.
    """
    if len(set(rates)) < len(rates):
        raise UsageError("A learning rate is given twice.", hint="Give each rate once.")
    found = [descend(problem, lr, steps) for lr in rates]
    lr = max(rates)
    while until_broken and found[-1].state == "stable" and lr < FASTEST_TRIED:
        lr *= 2
        found.append(descend(problem, lr, steps))
    return found


def fastest_stable(trajectories: Sequence[Trajectory]) -> Trajectory | None:
    """Return the stable trajectory with the lowest loss at the last step, or None."""
    stable = [trajectory for trajectory in trajectories if trajectory.state == "stable"]
    return min(stable, key=lambda trajectory: trajectory.final_loss, default=None)


def write_csv(file: TextIO, trajectories: Sequence[Trajectory]) -> None:
    """Write all steps of all rates as CSV: columns lr, step and `COLUMNS`, numbers in full precision."""
    writer = csv.writer(file)
    writer.writerow(("lr", "step", *COLUMNS))
    for trajectory in trajectories:
        for step, row in enumerate(trajectory.rows):
            writer.writerow((trajectory.lr, step, *(row[column] for column in COLUMNS)))
