"""Measure what docs/scale.md says: python docs/scale.py workers|driver|mlflow [--trials N --batch B]

Trials are made up, everything else is the harness: the driver asks, keeps, tells and records as in `tune`.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from distributed import LocalCluster
from optuna.trial import FrozenTrial

from harness import data, plugins, tuning
from harness.events import Epoch, StudyRecord, Trial
from harness.runs import TrialRequest
from harness.tracking import tracking_uri
from harness.tracking.client import Client
from harness.tracking.tracker import sync_source
from harness.tuning import Search
from harness.workers import Cluster, News, processes

SECONDS = 1.0
"""What a trial sleeps."""

THOUSAND = 1_000

FILES = {
    "asleep.py": '''"""A linear layer that is never trained."""
from torch import nn


def build(*, width: int = 7) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(width), nn.Flatten(), nn.Linear(width * width, 10))
''',
    "study.py": '''"""Three settings, the usual number."""
ARCHITECTURE = "asleep.py"


def suggest(trial):
    return {
        "width": trial.suggest_int("width", 2, 28),
        "lr": trial.suggest_float("lr", 1e-3, 1.0, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-6, 1e-2, log=True),
    }
''',
}


def made_up(requests: Sequence[TrialRequest]) -> list[Trial]:
    """Return what training might have given: nineteen epochs, and a score with a summit."""
    (number, settings, _), now = requests[0], round(time.time() * 1000)
    score = 0.99 - abs(math.log10(float(settings["lr"])) + 1) / 10 - abs(int(settings["width"]) - 14) / 100
    epochs = tuple(Epoch(n, 0.1, 0.2, 0.9, 1.0, 5e4, 0.2, score * (1 - 0.5 / n)) for n in range(1, 20))
    return [Trial(number, "complete", epochs[-1].held_out_accuracy, settings, epochs, 500, "", now, now)]


def search(sampler: str = "tpe", batch: int = tuning.BATCH) -> Search:
    """Write the two files where we are, and return their study."""
    for name, text in FILES.items():
        Path(name).write_text(text)
    study = plugins.load_study("study.py")
    return Search(study, data.load("digits", "validation"), None, 0, sampler, "median", "cpu", batch)


# --- workers that sleep -----------------------------------------------------------------------------------


def dask_setup(_: object) -> None:
    """Called by Dask in each worker, which then lets its process sleep instead of training."""
    processes._train_trials = sleep


def sleep(requests: Sequence[TrialRequest], medians: Mapping[int, float], folder: Path, *_: object) -> list[Trial]:
    """Stand in for `harness.workers.processes._train_trials`, and report an epoch as that does."""
    with processes._reporting(folder) as tell:
        time.sleep(SECONDS)
        (trial,) = made_up(requests)
        tell(trial.number, trial.epochs[-1], 19)
    return [trial]


def measure_workers() -> None:
    """Print the throughput of 1, 2 and 4 workers on trials of `SECONDS` of sleep."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    print("workers  batch  trials  seconds  efficiency  overhead a trial  most there can be")
    for count, batch in ((1, 20), (2, 20), (4, 10), (4, 20), (4, 40)):
        one_each = {"n_workers": count, "threads_per_worker": 1, "memory_limit": 0}
        with LocalCluster(**one_each, preload="scale", dashboard_address=None) as here:
            hired = Cluster(here.scheduler_address, hang_timeout=60)
            hired.configure("cpu", 1.0)
            hired.send("digits", "validation")
            made = replace(search("random", batch), seed=count)  # a study of its own
            ends: list[float] = []
            for event in tuning.tune(made, 3 * batch, hired):
                if isinstance(event, StudyRecord):
                    ends.append(time.perf_counter())
        # The first batch starts the processes: not counted. `ends` are those of 0, 1, 2 and 3 batches.
        trials, seconds = 2 * batch, ends[3] - ends[1]
        rounds = math.ceil(batch / count)
        overhead = 1000 * (seconds - 2 * rounds * SECONDS) / (2 * rounds)
        print(
            f"{count:>7}  {batch:>5}  {trials:>6}  {seconds:>7.2f}  {trials * SECONDS / count / seconds:>10.1%}"
            f"  {overhead:>13.0f} ms  {batch / count / rounds:>17.1%}",
            flush=True,
        )


# --- a driver alone ---------------------------------------------------------------------------------------


class NoWorkers:
    """Answers at once: what is left is the driver's own time."""

    together = 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, requests: Sequence[TrialRequest], medians: Mapping[int, float]) -> Future[list[Trial]]:
        """Make up the outcome."""
        future: Future[list[Trial]] = Future()
        future.set_result(made_up(requests))
        return future

    def wait(self, running: Iterable[Future[Any]], seconds: float) -> set[Future[Any]]:
        """Return all there are."""
        return set(running)

    def news(self) -> list[News]:
        """Return nothing."""
        return []

    def why_lost(self, done: Future[Any]) -> None:
        """Nothing is lost."""


def measure_driver(trials: int, batch: int) -> None:
    """Print, by the thousand, what a trial costs the driver; then how long each sampler ponders over the next one."""
    before = _memory()
    print(f"random sampler, batch {batch}\n  trials  driver a trial  memory of the study so far")
    done, began = 0, time.perf_counter()
    for event in tuning.tune(search("random", batch), trials, NoWorkers()):
        done += isinstance(event, Trial)
        if isinstance(event, Trial) and done % THOUSAND == 0:
            each = 1000 * (time.perf_counter() - began) / THOUSAND
            print(f"{done:>8,}  {each:>11.1f} ms  {_memory() - before:>22,} MiB", flush=True)
            began = time.perf_counter()
    (log,) = Path("mlruns/studies").glob("*/study.log")
    began = time.perf_counter()
    told = tuning.Log.read(log.parent.absolute()).study.trials
    print(f"to read the log again, as a command does that goes on: {time.perf_counter() - began:.1f} s")
    print("   known  tpe, a trial  random, a trial")
    for known in (100, THOUSAND, 2 * THOUSAND, 5 * THOUSAND, 10 * THOUSAND):
        if known <= trials:
            tpe, drawn = (_pondering(sampler, told[:known]) for sampler in ("tpe", "random"))
            print(f"{known:>8,}  {tpe:>9.1f} ms  {drawn:>12.1f} ms", flush=True)


def _pondering(sampler: str, told: Sequence[FrozenTrial]) -> float:
    """Return the milliseconds of a proposal after the trials in `told`."""
    asking = tuning.Proposer(search(sampler), told)
    began = time.perf_counter()
    asking.ask(tuning.BATCH)
    return 1000 * (time.perf_counter() - began) / tuning.BATCH


def measure_mlflow(trials: int, batch: int) -> None:
    """Print what a trial costs the thread that brings a study to MLflow: all at once, and then a batch more."""
    store, made = Client(tracking_uri()), search("random", batch)
    for wanted in (trials, trials + batch):
        *_, record = tuning.tune(made, wanted, NoWorkers())
        assert isinstance(record, StudyRecord)
        began = time.perf_counter()
        sync_source(store, replace(record, state="running"))  # without the figures of a finished one
        more = wanted - trials or trials
        print(f"{more} trials more: {1000 * (time.perf_counter() - began) / more:.1f} ms a trial", flush=True)


def _memory() -> int:
    """Return the most memory this process has had so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    """Do what the command line says, in a folder that is gone afterwards."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("workers", "driver", "mlflow"))
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=tuning.BATCH)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        if args.what == "workers":
            measure_workers()
        elif args.what == "mlflow":
            measure_mlflow(args.trials, args.batch)
        else:
            measure_driver(args.trials, args.batch)


if __name__ == "__main__":
    main()
