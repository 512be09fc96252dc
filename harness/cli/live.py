"""Training as a person watches it: the dataset chosen, jobs trained line by line, the tracker closed."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from harness import data, experiment, page
from harness.cli import report, show
from harness.errors import TrackerError
from harness.evaluation import verdict
from harness.experiment import Started
from harness.journal import journals
from harness.spec import BUDGET, Epoch, Job, Result
from harness.statistics import summarise
from harness.tracking import Tracker


def choose_dataset(asked: str) -> str:
    """Resolve ``auto``, and say so where MNIST cannot be had."""
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


def train_all(jobs: Sequence[Job], tracker: Tracker) -> list[float]:
    """Train and record jobs that differ by their seed, and return their scores."""
    group = experiment.new_group(len(jobs))
    scores = [_train(job, experiment.record(job, tracker, group)) for job in jobs]
    if len(scores) > 1:
        by_seed = ", ".join(f"seed {job.seed} {100 * score:.2f} %" for job, score in zip(jobs, scores, strict=True))
        show.console.print(f"\n{jobs[0].name}: {by_seed}\n{page.spread(summarise(scores))}")
    return scores


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


def close(tracker: Tracker) -> int:
    """Let the tracker catch up, and return the exit code."""
    try:
        tracker.close()
    except TrackerError as error:
        report(error)
        return error.exit_code
    return 0
