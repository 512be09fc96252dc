"""Bring MLflow up to the journals: fills an empty store, completes one that fell behind, doubles nothing."""

from __future__ import annotations

import argparse

from harness import tracking
from harness.cli import show


def add_arguments(_parser: argparse.ArgumentParser) -> None:
    """There is nothing to choose: the store is $MLFLOW_TRACKING_URI, else mlruns/mlflow.db."""


def main(_args: argparse.Namespace) -> int:
    count = tracking.sync()
    show.console.print(f"{tracking.tracking_uri()} holds all {count} runs of the journals.")
    return 0
