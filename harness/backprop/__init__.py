"""The backpropagation exercise: a 2-2-2 network trained with hand-derived gradients at several learning rates."""

from harness.backprop.network import COLUMNS, LARGEST, WEIGHTS, Problem, Trajectory, fastest_stable, sweep, write_csv
from harness.backprop.text import SWEEP_NOTE, sweep_markdown, sweep_state

__all__ = [
    "COLUMNS",
    "LARGEST",
    "SWEEP_NOTE",
    "WEIGHTS",
    "Problem",
    "Trajectory",
    "fastest_stable",
    "sweep",
    "sweep_markdown",
    "sweep_state",
    "write_csv",
]
