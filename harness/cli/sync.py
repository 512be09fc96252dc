"""Bring MLflow up to the journals: fills an empty store, completes one that fell behind, doubles nothing."""

from __future__ import annotations

import argparse
import itertools

from rich.progress import track

from harness import tracking, tuning
from harness.cli import show
from harness.journal import all_journals


def add_arguments(_parser: argparse.ArgumentParser) -> None:
    """There is nothing to choose: the store is $MLFLOW_TRACKING_URI, else mlruns/mlflow.db."""


def main(_args: argparse.Namespace) -> int:
    hidden = not show.console.is_terminal
    found = itertools.chain[tracking.Source](all_journals(), tuning.records())
    count = tracking.sync(track(found, "journals", console=show.console, transient=True, disable=hidden))
    show.console.print(f"{tracking.address()} holds all {count} runs and studies of the journals.")
    return 0
