"""Bring MLflow up to the journals: fills an empty store, completes one that fell behind, doubles nothing.

The store is $MLFLOW_TRACKING_URI, else mlruns/mlflow.db.
"""

from __future__ import annotations

import argparse
import itertools

from rich.progress import track

from harness import tracking, tuning
from harness.cli.console import console, report_imports
from harness.journal import all_journals, mark_dead_runs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pull", action="store_true", help="first bring home the finished runs that others sent to the store"
    )


def main(args: argparse.Namespace) -> int:
    mark_dead_runs({})
    code = report_imports(tracking.pull(), tracking.address()) if args.pull else 0
    hidden = not console.is_terminal
    found = itertools.chain[tracking.Source](all_journals(), tuning.records())
    count = tracking.sync(track(found, "journals", console=console, transient=True, disable=hidden))
    console.print(f"{tracking.address()} holds all {count} runs and studies of the journals.")
    return code
