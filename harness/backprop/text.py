"""The report of a sweep as Markdown, with the derivation of the eight derivatives."""

from __future__ import annotations

from collections.abc import Sequence

from harness.backprop.network import Problem, Trajectory, fastest_stable
from harness.markdown import markdown_table

SWEEP_NOTE = """\
A 2-2-2 sigmoid network trained with hand-derived gradients at several learning rates. Each sweep is a run with the
figures and the derivation; its child runs, one per learning rate, have every quantity at every step.
"""


def sweep_markdown(problem: Problem, trajectories: Sequence[Trajectory]) -> str:
    """Return the report of a learning-rate sweep: the result, and an explanation of the eight derivatives."""
    rows = [(trajectory.rate, f"{trajectory.final_loss:.9f}", sweep_state(trajectory)) for trajectory in trajectories]
    best = fastest_stable(trajectories)
    return "\n\n".join(
        [
            f"Inputs {problem.inputs}, targets {problem.targets}, initial weights {problem.weights}.",
            f"Fastest stable rate (lowest loss at the last step): **{best.rate}**." if best else "No rate is stable.",
            markdown_table(("learning rate", f"loss after {len(trajectories[0].rows) - 1} steps", "state"), rows),
            _DERIVATION,
        ]
    )


def sweep_state(trajectory: Trajectory) -> str:
    """Describe whether a learning rate is stable and, if not, what happens."""
    if trajectory.first_rise is not None:
        return f"unstable: the loss rises at step {trajectory.first_rise}"
    if trajectory.is_saturated:
        last = trajectory.rows[-1]
        return f"saturated: outputs {last['a_o1']:.3g} and {last['a_o2']:.3g}, learning has all but stopped"
    return "stable"


_DERIVATION = """\
### The eight derivatives

The network, with s(x) = 1 / (1 + exp(-x)), whose derivative is s'(x) = s(x) (1 - s(x)):

    h1 = w1 i1 + w2 i2    a_h1 = s(h1)    o1 = w5 a_h1 + w6 a_h2    a_o1 = s(o1)    E1 = (t1 - a_o1)² / 2
    h2 = w3 i1 + w4 i2    a_h2 = s(h2)    o2 = w7 a_h1 + w8 a_h2    a_o2 = s(o2)    E2 = (t2 - a_o2)² / 2

E_total = E1 + E2. A weight into an output affects only one error, so the chain rule has three factors:

    dE/dw5 = dE1/da_o1 · da_o1/do1 · do1/dw5 = (a_o1 - t1) · a_o1 (1 - a_o1) · a_h1
    dE/dw6 =                                   (a_o1 - t1) · a_o1 (1 - a_o1) · a_h2
    dE/dw7 =                                   (a_o2 - t2) · a_o2 (1 - a_o2) · a_h1
    dE/dw8 =                                   (a_o2 - t2) · a_o2 (1 - a_o2) · a_h2

A weight into a hidden unit affects both errors, because the unit feeds both outputs. The derivatives are added:

    dE/da_h1 = (a_o1 - t1) · a_o1 (1 - a_o1) · w5 + (a_o2 - t2) · a_o2 (1 - a_o2) · w7
    dE/da_h2 = (a_o1 - t1) · a_o1 (1 - a_o1) · w6 + (a_o2 - t2) · a_o2 (1 - a_o2) · w8

    dE/dw1 = dE/da_h1 · a_h1 (1 - a_h1) · i1        dE/dw3 = dE/da_h2 · a_h2 (1 - a_h2) · i1
    dE/dw2 = dE/da_h1 · a_h1 (1 - a_h1) · i2        dE/dw4 = dE/da_h2 · a_h2 (1 - a_h2) · i2

The gradient points uphill, so every step subtracts it, scaled by the learning rate: w ← w - lr · dE/dw.
Among the exercise's six rates, a higher one lowers the loss faster. Far above them, the first step overshoots to where
the sigmoids are flat (saturated), or the loss rises (unstable).
"""
