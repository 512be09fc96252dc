"""Train architectures under the budget, on every training image, and score them after the last epoch.

Everything is recorded: first in mlruns/journal/, and from there in MLflow (`python -m harness ui`).
Several seeds become children of one MLflow run with their mean, spread and 95 % interval.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Generator

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from harness import audit, data, experiment, page, plugins
from harness.cli import options, report, show
from harness.errors import HarnessError, TrackerError, UsageError
from harness.evaluation import verdict
from harness.experiment import Started
from harness.journal import journals
from harness.spec import BUDGET, Epoch, Job, Knob, Result
from harness.statistics import summarise
from harness.tracking import Tracker

MOST_SEEDS = 1_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_files(parser)
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="first seed (default: 0)")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="train with seeds S, S+1, ... (default: 1)")
    options.add_dataset(parser)
    options.add_set(parser)
    parser.add_argument("--epochs", type=int, metavar="E", help="short for --set epochs=E")
    options.add_device(parser)


def main(args: argparse.Namespace) -> int:
    given = _settings(args)
    device = experiment.choose_device(args.device)
    name = _dataset(args.dataset)
    data.load(name)  # refused before anything is built, if it must be
    codes = [0]
    tracker = Tracker()
    try:
        for path in args.files:
            try:
                jobs = _jobs(path, given, name, range(args.seed, args.seed + args.seeds), device)
                _train_all(jobs, tracker)
            except HarnessError as error:
                report(error)
                codes.append(error.exit_code)
            except KeyboardInterrupt:
                print("Stopped; what was finished is kept.", file=sys.stderr)
                codes.append(130)
                break
    finally:  # also when nobody reads our output any more
        codes.append(_close(tracker))
    return max(codes)


def _settings(args: argparse.Namespace) -> dict[str, Knob]:
    given = options.settings(args.settings)
    if args.epochs is not None:
        if "epochs" in given:
            raise UsageError("--epochs and --set epochs=... are the same setting.", mend="Give one of them.")
        given["epochs"] = args.epochs
    if not 1 <= args.seeds <= MOST_SEEDS:
        raise UsageError(f"--seeds {args.seeds} is out of range.", legal=f"Legal: 1 to {MOST_SEEDS:,}.")
    if args.seed < 0:
        raise UsageError(f"--seed {args.seed} is negative.", legal="Legal: 0 or more.")
    return given


def _dataset(asked: str) -> str:
    name, why_not_mnist = data.choose(asked)
    if why_not_mnist:
        show.console.print(
            f"{why_not_mnist}\n"
            "Training on digits instead: 1,437 small images from scikit-learn. "
            "Its scores say nothing about MNIST and never rank beside it.",
            style="bold yellow",
        )
        show.console.print("For MNIST, set HARNESS_DATA to a folder that holds MNIST/raw/.")
    return name


def _jobs(path: str, given: dict[str, Knob], dataset: str, seeds: range, device: str) -> list[Job]:
    """Refuse what is not legal before anything is trained or recorded."""
    architecture = plugins.load(path)
    knobs, recipe = plugins.settle(architecture, given)
    found, anatomy = experiment.inspect(architecture, knobs)
    audit.enforce(found.ledger, recipe, BUDGET)
    show.console.rule(architecture.name, align="left")
    show.console.print(architecture.summary)
    show.layers(anatomy)
    show.console.print(f"{found.ledger.parameters:,} parameters of {BUDGET.parameters:,}")
    for name in recipe.idle:
        show.console.print(f"note: {name} is set, but nothing in this recipe uses it", style="yellow")
    return experiment.jobs(architecture, knobs, recipe, data.load(dataset), seeds, device)


def _train_all(jobs: list[Job], tracker: Tracker) -> None:
    group = experiment.new_group(len(jobs))
    scores = [_train(job, experiment.record(job, tracker, group)) for job in jobs]
    if len(scores) > 1:
        show.console.print(f"\n{jobs[0].name}: {page.spread(summarise(scores))}")


def _train(job: Job, events: Generator[experiment.Event]) -> float:
    """Print events as they come and return the score."""
    score = 0.0
    with _progress(job) as progress, contextlib.closing(events):
        task = progress.add_task(f"{job.name} seed {job.seed}", total=job.recipe.epochs)
        for event in events:
            if isinstance(event, Started):
                started = event
                progress.console.print(f"\nseed {job.seed} on {job.dataset}, {started.device_name}")
            elif isinstance(event, Epoch):
                progress.console.print(_line(event, job.recipe.epochs))
                progress.advance(task)
            else:
                score = event.accuracy
                result = event
    _conclude(job, started, result)
    return score


def _progress(job: Job) -> Progress:
    """Return a bar that is shown on a terminal only and leaves no trace."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("epoch {task.completed}/{task.total} done"),
        TimeElapsedColumn(),
        console=show.console,
        transient=True,
        disable=not show.console.is_terminal,
    )


def _line(epoch: Epoch, epochs: int) -> str:
    assert epoch.held_out_accuracy is not None
    fields = (
        f"epoch {epoch.number:>2}/{epochs}",
        f"loss {epoch.train_loss:.4f}",
        f"train {100 * epoch.train_accuracy:6.2f} %",
        f"test {100 * epoch.held_out_accuracy:6.2f} %",
        f"lr {epoch.lr:<8.3g}",
        f"{epoch.images_per_second:>6,.0f} images/s",
        f"left {show.duration((epochs - epoch.number) * epoch.seconds)}",
    )
    return "  ".join(fields)


def _conclude(job: Job, started: Started, result: Result) -> None:
    accuracy, epochs = result.accuracy, job.recipe.epochs
    show.console.print()
    if not started.is_benchmark:
        show.console.print(f"{job.dataset} is not the benchmark: there is no accuracy to reach")
    show.targets(verdict(started.ledger.parameters, epochs, accuracy, BUDGET, started.is_benchmark))
    show.console.print(f"score {100 * accuracy:.2f} %", style="bold", end="")
    show.console.print(
        f" after the last epoch: {job.name}, seed {job.seed}, {job.dataset}, "
        f"protocol {job.protocol}, in {show.duration(result.seconds)}\n"
        f"best epoch {result.best_epoch}: {100 * result.best_accuracy:.2f} %, picked on the test set: it never ranks\n"
        f"record: {journals() / started.run_id}\n"
        "compare runs: python -m harness ui"
    )


def _close(tracker: Tracker) -> int:
    try:
        tracker.close()
    except TrackerError as error:
        report(error)
        return error.exit_code
    return 0
