"""Train the exercise's 2-2-2 network with hand-derived gradients, at several learning rates.

Prints how fast each rate lowers the loss and records the sweep in the MLflow experiment backprop-lr-sweep. With
--table it prints all quantities of some steps, as a spreadsheet would, to check homework cell by cell.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from harness import tracking
from harness.backprop import COLUMNS, LARGEST, Problem, Trajectory, fastest_stable, sweep, sweep_state, write_csv
from harness.cli.console import console, new_table
from harness.errors import UsageError

RATES = "0.1,0.2,0.5,0.8,1.0,2.0"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    start = Problem()
    parser.add_argument("--lr", default=RATES, metavar="LR,...", help=f"learning rates (default: {RATES})")
    parser.add_argument("--steps", type=int, default=100, metavar="N", help="updates (default: 100)")
    for name, values in (("inputs", start.inputs), ("targets", start.targets), ("weights", start.weights)):
        text = ",".join(map(str, values))
        parser.add_argument(f"--{name}", default=text, metavar="X,...", help=f"default: {text}")
    parser.add_argument(
        "--loss",
        type=float,
        default=0.1,
        metavar="L",
        help="report the steps that each rate takes to this loss (default: 0.1)",
    )
    parser.add_argument(
        "--until-broken", action="store_true", help="double the highest rate until the loss rises or learning stops"
    )
    parser.add_argument("--table", type=int, nargs="+", metavar="STEP", help="print all quantities of these steps")
    parser.add_argument("--csv", metavar="FILE", help="write all steps of all rates to a CSV file")


def main(args: argparse.Namespace) -> int:
    problem = Problem(
        _numbers("inputs", args.inputs), _numbers("targets", args.targets), _numbers("weights", args.weights)
    )
    if not 0 < args.loss <= LARGEST:  # refuses NaN too
        raise UsageError(f"--loss {args.loss} cannot be reached.", allowed="Allowed: a number above 0.")
    trajectories = sweep(problem, _numbers("lr", args.lr), args.steps, args.until_broken)
    for step in args.table or ():
        if not 0 <= step <= args.steps:
            raise UsageError(
                f"There is no step {step}.", allowed=f"Allowed: 0 (before the first update) to {args.steps}."
            )
    _summarise(trajectories, args.loss)
    if args.table:
        _print_rows(trajectories, args.table)
    if args.csv is not None:
        _write(trajectories, args.csv)
    tracking.record_sweep(problem, trajectories)
    console.print(f"recorded: {tracking.address()}\nlook at it: python -m harness ui, experiment {tracking.SWEEPS}")
    return 0


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--{name} {text} is not a list of numbers.", hint="Separate numbers with commas, without spaces."
        ) from None


def _summarise(trajectories: Sequence[Trajectory], loss: float) -> None:
    first, last = "loss at step 0", f"loss at step {len(trajectories[0].rows) - 1}"
    rows = new_table(
        "learning rate",
        first,
        last,
        f"steps to {loss:g}",
        "",
        right=("learning rate", first, last, f"steps to {loss:g}"),
    )
    for trajectory in trajectories:
        steps = trajectory.steps_to(loss)
        rows.add_row(
            trajectory.rate,
            f"{trajectory.rows[0]['E_total']:.9f}",
            f"{trajectory.final_loss:.9f}",
            "not reached" if steps is None else str(steps),
            sweep_state(trajectory),
        )
    console.print(rows)
    best = fastest_stable(trajectories)
    console.print(f"fastest stable rate (lowest loss at the last step): {best.rate}" if best else "no rate is stable")


def _print_rows(trajectories: Sequence[Trajectory], steps: Sequence[int]) -> None:
    """Print one table for each rate: a row for each quantity, a column for each step."""
    for trajectory in trajectories:
        heads = [f"step {step}" for step in steps]
        rows = new_table(f"lr {trajectory.rate}", *heads, right=heads)
        for column in COLUMNS:
            rows.add_row(column, *(f"{trajectory.rows[step][column]:.12g}" for step in steps))
        console.print()
        console.print(rows)


def _write(trajectories: Sequence[Trajectory], path: str) -> None:
    try:
        with open(path, "w", newline="", encoding="utf-8") as file:
            write_csv(file, trajectories)
    except OSError as error:
        raise UsageError(f"--csv '{path}' cannot be written: {error.strerror}.") from error
    console.print(f"wrote {path}")
