"""What recording commands share: choosing dataset, device and cluster, and opening and closing the tracker."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from harness import data, journal, runs, watchdog, workers
from harness.cli.console import console
from harness.cli.exit import exit_code, report
from harness.confine import isolation
from harness.errors import HarnessError, TrackerError, UsageError
from harness.spec import HeldOut
from harness.tracking import Tracker

if TYPE_CHECKING:
    from harness.workers import Cluster


def choose_dataset(wanted: str) -> str:
    """Resolve ``auto``, and print a warning if MNIST is not available."""
    name, why_not_mnist = data.choose(wanted)
    if why_not_mnist:
        console.print(
            f"{why_not_mnist}\n"
            "Training on digits instead: 1,437 small images from scikit-learn. "
            "Its scores say nothing about MNIST and never rank beside it.",
            style="bold yellow",
        )
        console.print("For MNIST, set HARNESS_DATA to a folder that holds MNIST/raw/.")
    return name


def note_isolation() -> None:
    """Say what this system does not enforce on the process that executes a plug-in's file, if it lacks something."""
    if missing := isolation().missing:
        console.print(f"note: not enforced here on the process of a file: {'; '.join(missing)}", style="yellow")


def choose_device(wanted: str) -> str:
    """Resolve ``auto``, and print a warning if a GPU is not used."""
    device = runs.choose_device(wanted)
    if wanted == "auto" and (missing := runs.gpu_without_code()):
        console.print(f"Training on the CPU: {missing}.", style="bold yellow")
    return device


def connect(
    address: str, gpu_share: float | None, hang_timeout: float, device: str, dataset: str, held_out: HeldOut
) -> tuple[Cluster, str, str]:
    """Connect to a cluster and send it the images; return it, the device of its trainings, and its description.

    Raises:
        UsageError: Dask is not installed, no scheduler responds, or no worker has that device.
    """
    try:
        make = workers.Cluster
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--cluster needs Dask, which is not installed here ({error.name}).",
            hint="pip install 'harness[cluster]', or in a checkout pip install -e '.[cluster]'.",
        ) from error
    if gpu_share is not None and not 0 < gpu_share <= 1:
        raise UsageError(f"--gpu-share {gpu_share:g} is out of range.", allowed="Allowed: above 0, to 1.")
    cluster = make(address, hang_timeout)
    if device == "auto":
        device = "cuda" if cluster.gpus else "cpu"
    if device == "cuda" and not cluster.gpus:
        raise UsageError("No worker of the cluster announces a GPU.", hint="Use --device cpu, or auto.")
    cluster.configure(device, gpu_share)
    cluster.send(dataset, held_out)
    has = f", {cluster.gpus:g} GPU{'' if cluster.gpus == 1 else 's'}" if cluster.gpus else ""
    count = len(cluster.members)
    console.print(f"cluster {address}: {count} worker{'' if count == 1 else 's'}{has}; {cluster.dashboard}")
    return cluster, device, f"on {count} worker{'' if count == 1 else 's'}"


def recorded(work: Callable[[Tracker], object]) -> int:
    """Run `work` with a tracker, wait for MLflow, and return the exit code; handles errors and signals."""
    tracker = Tracker(warn=lambda message: console.print(message, style="yellow", markup=False))
    code, stopped = 0, False
    try:
        work(tracker)
    except HarnessError as error:
        report(error)
        code = error.exit_code
    except KeyboardInterrupt as stop:
        print("Stopped. Finished work is saved; run the same command again to resume.", file=sys.stderr)
        code, stopped = exit_code(stop), True
    finally:  # also after a BrokenPipeError
        closed = _close(tracker, stopped)
    return code or closed


def mark_interrupted(died: Mapping[int, str]) -> int:
    """Record in journals and MLflow why processes died: `died` holds the reason by process id."""
    return recorded(lambda tracker: mark_dead_runs(tracker, died))


def mark_dead_runs(tracker: Tracker, died: Mapping[int, str] | None = None) -> None:
    """Record in journals and MLflow that the runs of dead processes were interrupted."""
    for left_over in journal.mark_dead_runs(died or {}):
        tracker.enqueue(left_over)


def _close(tracker: Tracker, stopped: bool) -> int:
    """Wait for the tracker, only a few seconds if the command was stopped, and return the exit code."""
    try:
        with watchdog.paused():
            tracker.close(stopped)
    except TrackerError as error:
        report(error)
        return error.exit_code
    except KeyboardInterrupt as stop:
        print("Did not wait for MLflow. Finished work is saved; add it with python -m harness sync", file=sys.stderr)
        return exit_code(stop)
    return 0
