"""Add missing runs and studies to MLflow; safe to repeat.

The store is $MLFLOW_TRACKING_URI, or mlruns/mlflow.db if that is not set.
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
        "--pull", action="store_true", help="first import finished runs that other machines added to the store"
    )


def main(args: argparse.Namespace) -> int:
    mark_dead_runs({})
    code = report_imports(tracking.pull, tracking.address()) if args.pull else 0
    hidden = not console.is_terminal
    found = itertools.chain[tracking.Source](all_journals(), tuning.records())
    count = tracking.sync(track(found, "journals", console=console, transient=True, disable=hidden))
    console.print(f"{tracking.address()} holds all {count} runs and studies of the journals.")
    return code
