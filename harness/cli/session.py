"""What a command that records does before and after its work: choices said aloud, the tracker opened and closed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from harness import data, journal, runs, watchdog, workers
from harness.cli.console import console
from harness.cli.exit import exit_code, report
from harness.errors import HarnessError, TrackerError, UsageError
from harness.spec import HeldOut
from harness.tracking import Tracker

if TYPE_CHECKING:
    from harness.workers import Cluster


def choose_dataset(asked: str) -> str:
    """Resolve ``auto``, and say so where MNIST cannot be had."""
    name, why_not_mnist = data.choose(asked)
    if why_not_mnist:
        console.print(
            f"{why_not_mnist}\n"
            "Training on digits instead: 1,437 small images from scikit-learn. "
            "Its scores say nothing about MNIST and never rank beside it.",
            style="bold yellow",
        )
        console.print("For MNIST, set HARNESS_DATA to a folder that holds MNIST/raw/.")
    return name


def choose_device(asked: str) -> str:
    """Resolve ``auto``, and say so where a GPU is left alone."""
    device = runs.choose_device(asked)
    if asked == "auto" and (missing := runs.gpu_without_code()):
        console.print(f"Training on the CPU: {missing}.", style="bold yellow")
    return device


def connect(args: argparse.Namespace, dataset: str, held_out: HeldOut) -> tuple[Cluster, str, str]:
    """Connect to ``--cluster``, send it the images; return it, the device trained on, and what it is in words.

    Raises:
        UsageError: Dask is not installed, nobody answers, or there is no such device.
    """
    try:
        make = workers.Cluster
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--cluster needs Dask, which is not installed here ({error.name}).",
            hint="pip install 'harness[cluster]', or in a checkout pip install -e '.[cluster]'.",
        ) from error
    if args.gpu_share is not None and not 0 < args.gpu_share <= 1:
        raise UsageError(f"--gpu-share {args.gpu_share:g} is out of range.", allowed="Legal: above 0, to 1.")
    hired = make(args.cluster, args.hang_timeout)
    device = ("cuda" if hired.gpus else "cpu") if args.device == "auto" else args.device
    if device == "cuda" and not hired.gpus:
        raise UsageError("No worker of the cluster announces a GPU.", hint="Use --device cpu, or leave it to auto.")
    hired.configure(device, args.gpu_share)
    hired.send(dataset, held_out)
    has = f", {hired.gpus:g} GPU{'' if hired.gpus == 1 else 's'}" if hired.gpus else ""
    count = len(hired.members)
    console.print(f"cluster {args.cluster}: {count} worker{'' if count == 1 else 's'}{has}; {hired.dashboard}")
    return hired, device, f"on {count} worker{'' if count == 1 else 's'}"


def recorded(work: Callable[[Tracker], object]) -> int:
    """Do something that is recorded, let MLflow catch up, and return the exit code, also where it was stopped."""
    tracker = Tracker(warn=lambda said: console.print(said, style="yellow", markup=False))
    code, stopped = 0, False
    try:
        work(tracker)
    except HarnessError as error:
        report(error)
        code = error.exit_code
    except KeyboardInterrupt as stop:
        print("Stopped; what is finished is kept, and the same command goes on.", file=sys.stderr)
        code, stopped = exit_code(stop), True
    finally:  # also when nobody reads our output any more
        closed = _close(tracker, stopped)
    return code or closed


def mark_interrupted(died: Mapping[int, str]) -> int:
    """Let journals and MLflow say what ended the runs of processes that died: their numbers, and what to say."""
    return recorded(lambda tracker: mark_dead_runs(tracker, died))


def mark_dead_runs(tracker: Tracker, died: Mapping[int, str] | None = None) -> None:
    """Let journals and MLflow say that a run was interrupted whose process has died."""
    for left_over in journal.mark_dead_runs(died or {}):
        tracker.enqueue(left_over)


def _close(tracker: Tracker, stopped: bool) -> int:
    """Let the tracker catch up, in a few seconds where the command was stopped, and return the exit code."""
    try:
        with watchdog.paused():
            tracker.close(stopped)
    except TrackerError as error:
        report(error)
        return error.exit_code
    except KeyboardInterrupt as stop:
        print("MLflow was not waited for. What is finished is safe; python -m harness sync", file=sys.stderr)
        return exit_code(stop)
    return 0
