"""Prints the progress of training: line by line, with a progress bar on a terminal."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from harness import runs
from harness.cli.console import console, duration, new_table, print_layers, print_ledger, print_targets, warn_of_softmax
from harness.errors import WorkerLost
from harness.events import Epoch, Result
from harness.journal import FinishedRun, Journal, journal_folder
from harness.runs import Profile, Started, profiled
from harness.sentences import spread_line
from harness.spec import BUDGET, Group, Job
from harness.statistics import summarise
from harness.tracking import Tracker, unrepeatable_line
from harness.training import verdict

if TYPE_CHECKING:
    from harness.workers import Cluster

Events = Generator[runs.Event | None]
Turns = Generator[tuple[int, runs.Event]]


def train_all(
    jobs: Sequence[Job],
    tracker: Tracker,
    at_once: int = 1,
    profile: bool = False,
    retrain: bool = False,
    cluster: Cluster | None = None,
    author: str = "",
) -> list[float]:
    """Train and record jobs that differ by their seed, and return their scores.

    Finished runs are shown, and interrupted ones are resumed.

    Args:
        at_once: number of jobs that take turns on one GPU.
        profile: profile the first job, if the jobs do not take turns.
        retrain: train all jobs from the start.
        cluster: trains the jobs, as many at once as it can, instead of this machine.
        author: recorded with the runs that start now.
    """
    if len(jobs) > 1:
        importlib.import_module("scipy")  # for the interval of the mean: fail now rather than after training
    plan = runs.plan_training(jobs, retrain, trained_here=cluster is None)
    name = jobs[0].name
    known = {seed: _show_finished(run, name, author, tracker) for seed, run in sorted(plan.finished.items())}
    missing, group = plan.missing, plan.group

    def here(job: Job) -> Events:
        return runs.record(job, tracker, group, plan.unfinished.get(job.seed), author=author)

    if cluster and missing:
        trained = _train_in_turns(
            missing, [_there(job, tracker, group, cluster, author) for job in missing], len(missing)
        )
    elif at_once > 1 and len(missing) > 1:
        trained = _train_in_turns(missing, [*map(here, missing)], at_once, missing[0].device)
    else:
        trainings: list[Generator[runs.Event | Profile | None]] = [*map(here, missing)]
        if profile and trainings:
            trainings[0] = profiled(here(missing[0]), jobs[0].recipe.epochs)
        trained = [_train(job, run, job is missing[0]) for job, run in zip(missing, trainings, strict=True)]
    known.update(zip((job.seed for job in missing), trained, strict=True))
    scores = [known[job.seed] for job in jobs]
    if len(scores) > 1:
        by_seed = ", ".join(f"seed {job.seed} {100 * score:.2f} %" for job, score in zip(jobs, scores, strict=True))
        console.print(f"\n{jobs[0].name}: {by_seed}\n{spread_line(summarise(scores))}")
    return scores


def _there(job: Job, tracker: Tracker, group: Group | None, cluster: Cluster, author: str) -> Events:
    """Record a job that the cluster trains; if its worker disconnects, end that record and start another."""
    while True:
        try:
            return (yield from runs.record(job, tracker, group, trainer=cluster.train, author=author))
        except WorkerLost as lost:
            console.print(lost.message)


def resume(job: Job, journal: Journal, tracker: Tracker) -> float:
    """Resume an interrupted run and return its score."""
    return _train(job, runs.record(job, tracker, None, journal, restart_if_taken=False), introduces=True)


def _show_finished(run: FinishedRun, name: str, author: str, tracker: Tracker) -> float:
    """Print a finished run and return its score; say whose it is if it has another name or author than asked for."""
    folder = journal_folder() / run.run_id
    tracker.enqueue(Journal(folder))  # MLflow may have been down when it ended
    score = run.result.accuracy
    same = f": the same network as {run.job.name}" if run.job.name != name else ""
    by = f", trained by {run.start.author}" if run.start.author not in ("", author) else ""
    whose = f"{same}{by} ({run.run_id})" if same or by else ""
    console.print(f"\nseed {run.job.seed} on {run.job.dataset} was trained before{whose}, {run.start.device}")
    print_targets(verdict(run.start.parameters, len(run.epochs), score, BUDGET, run.start.is_benchmark))
    console.print(f"score {100 * score:.2f} %", style="bold", end="")
    console.print(f" after the last epoch\nrecord: {folder}\n--retrain trains it again")
    return score


def _introduce(started: Started) -> None:
    """Print the layers and the size of an audited network."""
    print_layers(started.model)
    if started.ledger.parameters != sum(layer.parameters for layer in started.model.layers):
        print_ledger(started.ledger)
    console.print(f"{started.ledger.parameters:,} parameters of {BUDGET.parameters:,}")
    warn_of_softmax(started.model)


def remarks(started: Started) -> Iterator[str]:
    """Yield remarks on how this run is trained and scored."""
    if started.slow_because:
        yield f"trained more slowly: {started.slow_because}"
    if started.unrepeatable:
        yield unrepeatable_line(started.unrepeatable)
    if started.untrained > 0.05:
        yield f"{100 * started.untrained:.0f} % of the averaged weights that are scored are the initial ones: lower ema"


def _train(job: Job, events: Generator[runs.Event | Profile | None], introduces: bool) -> float:
    """Print the events of a run and return its score; print the network first if `introduces`."""
    started, _, result = follow(job, events, introduces)
    _conclude(job, started, result)
    return result.accuracy


def follow(
    job: Job, events: Generator[runs.Event | Profile | None], introduces: bool
) -> tuple[Started, list[Epoch], Result]:
    """Print the events of a training as they come, and return them; print the network first if `introduces`."""
    epochs = []
    name = f"{job.name} seed {job.seed}"
    with _progress(f"preparing {name}", job.recipe.epochs) as progress, contextlib.closing(events):
        for event in events:
            if isinstance(event, Started):
                started = event
                if introduces:
                    _introduce(started)
                used = f"{started.device_name}, {started.mode.label}"
                progress.console.print(f"\nseed {job.seed} on {job.dataset}, {used}")
                for remark in remarks(started):
                    progress.console.print(remark)
                if started.epochs_before:
                    progress.console.print(f"resumes after epoch {started.epochs_before}, where it was interrupted")
                    progress.advance(TaskID(0), started.epochs_before)
                progress.update(TaskID(0), description=name)
            elif isinstance(event, Epoch):
                progress.console.print(_line(event, job.recipe.epochs))
                progress.advance(TaskID(0))
                epochs.append(event)
            elif isinstance(event, Profile):
                _show(event, progress.console)
            elif isinstance(event, Result):
                result = event
    return started, epochs, result


def _train_in_turns(jobs: Sequence[Job], trainings: Sequence[Events], at_once: int, device: str = "cpu") -> list[float]:
    """Print a line for each epoch of each seed, and return the scores in the order of the jobs."""
    scores = [0.0] * len(jobs)
    introduces = True
    epochs = jobs[0].recipe.epochs
    turns: Turns = runs.interleave(trainings, at_once, device)
    with _progress(jobs[0].name, epochs * len(jobs)) as progress, contextlib.closing(turns):
        for place, event in turns:
            seed = f"seed {jobs[place].seed:<4}"
            if isinstance(event, Started):
                if introduces:
                    _introduce(event)
                    introduces = False
                used = f"{event.device_name}, {event.mode.label}"
                starts = f"resumes after epoch {event.epochs_before}" if event.epochs_before else "starts"
                progress.console.print(
                    f"{seed}  {starts} on {jobs[0].dataset}, {used}: {journal_folder() / event.run_id}"
                )
                for remark in remarks(event):
                    progress.console.print(f"{seed}  {remark}")
                progress.advance(TaskID(0), event.epochs_before)
            elif isinstance(event, Epoch):
                progress.console.print(f"{seed}  {_line(event, epochs)}")
                progress.advance(TaskID(0))
            else:
                scores[place] = event.accuracy
                progress.console.print(f"{seed}  score {100 * event.accuracy:.2f} % after the last epoch")
    return scores


def _show(profile: Profile, console: Console) -> None:
    rows = new_table("operator", "share", "seconds", "calls", right=("share", "seconds", "calls"))
    for operator in profile.operators:
        share = f"{100 * operator.seconds / profile.seconds:.1f} %"
        rows.add_row(operator.name[:60], share, f"{operator.seconds:.2f}", f"{operator.calls:,}")
    console.print(f"\nwhere the {profile.seconds:.1f} s of epoch {profile.epoch} and its scoring went:")
    console.print(rows)
    console.print(f"full trace: {profile.trace} (open it in Perfetto)\n")


def _progress(name: str, epochs: int) -> Progress:
    """Return a progress bar that is shown on a terminal only and is removed at the end."""
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("epoch {task.completed}/{task.total} done"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    progress.add_task(name, total=epochs)
    return progress


def _line(epoch: Epoch, epochs: int) -> str:
    assert epoch.held_out_accuracy is not None
    fields = (
        f"epoch {epoch.number:>2}/{epochs}",
        f"loss {epoch.train_loss:.4f}",
        f"train {100 * epoch.train_accuracy:6.2f} %",
        f"test {100 * epoch.held_out_accuracy:6.2f} %",
        f"lr {epoch.lr:<8.3g}",
        f"{epoch.images_per_second:>6,.0f} images/s",
        f"left {duration((epochs - epoch.number) * epoch.elapsed)}",
    )
    return "  ".join(fields)


def _conclude(job: Job, started: Started, result: Result) -> None:
    accuracy, epochs = result.accuracy, job.recipe.epochs
    console.print()
    if not started.is_benchmark:
        console.print(f"{job.dataset} is not the benchmark: there is no accuracy to reach")
    print_targets(verdict(started.ledger.parameters, epochs, accuracy, BUDGET, started.is_benchmark))
    console.print(f"score {100 * accuracy:.2f} %", style="bold", end="")
    console.print(
        f" after the last epoch: {job.name}, seed {job.seed}, {job.dataset}, "
        f"protocol {job.protocol}, in {duration(result.seconds)}\n"
        f"best epoch {result.best_epoch}: {100 * result.best_accuracy:.2f} %, picked on the test set: it never ranks\n"
        f"record: {journal_folder() / started.run_id}\n"
        "compare runs: python -m harness ui"
    )
