"""Search the settings of an architecture: dropout, learning rate, widths, or whatever the study suggests.

A study uses training images only: it trains on a part of them and scores on the rest. The same command again resumes
where it stopped and proposes the same trials, whatever --jobs is.
"""

from __future__ import annotations

import argparse
import importlib
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from harness import data, leaderboard, plugins, runs, tuning
from harness.cli import options, progress, session
from harness.cli.console import console, duration
from harness.errors import UsageError, did_you_mean
from harness.events import Epoch, StudyRecord, Trial
from harness.journal import all_journals
from harness.plugins import PRUNERS, SAMPLERS, run_command, settings_text
from harness.spec import MOST_SEED, MOST_SEEDS
from harness.statistics import compare, expected_selection_gain
from harness.tracking import Tracker, confirmation_line, counts
from harness.tuning import BATCH, Search
from harness.workers import News, Processes, Workers

MOST_TRIALS = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", nargs="?", default="s6_gap", metavar="STUDY", help="file or name (default: s6_gap)")
    parser.add_argument(
        "--trials", type=int, default=50, metavar="N", help="number of finished trials to reach (default: 50)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the study (default: 0)")
    parser.add_argument("--epochs", type=int, metavar="E", help="epochs of a trial (default: the architecture's)")
    options.add_dataset(parser)
    parser.add_argument(
        "--jobs", type=int, metavar="K", help="trials at a time (default: as many as cores, one on a GPU)"
    )
    parser.add_argument(
        "--proposals",
        type=int,
        default=BATCH,
        metavar="P",
        help=f"trials proposed per batch (default: {BATCH}); more for many workers; changing it starts a new study",
    )
    parser.add_argument("--pruner", choices=PRUNERS, help="pruner, which stops hopeless trials (default: the study's)")
    parser.add_argument("--sampler", choices=SAMPLERS, help="sampler, which proposes settings (default: the study's)")
    parser.add_argument(
        "--timeout", type=float, metavar="T", help="stop after T seconds; run the same command again to resume"
    )
    parser.add_argument(
        "--confirm",
        type=int,
        default=0,
        metavar="N",
        help="then compare winner and default recipe on the test set, N seeds each",
    )
    options.add_device(parser)
    options.add_cluster(parser)
    options.add_author(parser)
    options.add_hang_timeout(parser)


def main(args: argparse.Namespace) -> int:
    _refuse_numbers(args)
    author = runs.choose_author(args.author)
    importlib.import_module("scipy")  # for the summary: fail now rather than after the study
    study = plugins.load_study(_path(args.study))
    name = session.choose_dataset(args.dataset)
    dataset = data.load(name, "validation")
    on_cluster = options.uses_cluster(args)
    _refuse_combinations(args, on_cluster)
    if on_cluster:
        pool, device, description = _connect(args, name)
    else:
        device = session.choose_device(args.device)
        pool, description = _processes(args.jobs, device, args.hang_timeout)
    search = Search(
        study,
        dataset,
        args.epochs,
        args.seed,
        args.sampler or study.sampler,
        args.pruner or study.pruner,
        device,
        args.proposals,
    )

    def work(tracker: Tracker) -> None:
        _mark_dead_runs(tracker)
        record = _tune(search, args.trials, args.timeout, pool, description, tracker)
        if record and record.state == "finished":
            _conclude(search, record, " and without --cluster" if on_cluster else "", bool(args.confirm))
            if args.confirm:
                _confirm(search, record, args.confirm, author, tracker)

    return session.recorded(work)


def _refuse_combinations(args: argparse.Namespace, on_cluster: bool) -> None:
    if on_cluster and args.jobs is not None:
        raise UsageError("--jobs and --cluster cannot go together.", hint="Leave --jobs out: the cluster has workers.")
    if on_cluster and args.confirm:
        raise UsageError(
            "--confirm and --cluster cannot go together.",
            hint="Leave --confirm out, and give the run commands of winner and default --cluster.",
        )


def _processes(count: int | None, device: str, hang_timeout: float) -> tuple[Workers, str]:
    """Return processes of this machine that train `count` trials at a time, and their description."""
    cores = os.cpu_count() or 1
    count = count or (1 if device == "cuda" else cores)
    return Processes(count, device, hang_timeout, cores - 1 if device == "cuda" else 0), f"{count} at a time"


def _connect(args: argparse.Namespace, dataset: str) -> tuple[Workers, str, str]:
    """Return the cluster, the device that it trains on, and its description."""
    cluster, device, description = session.connect(
        args.cluster, args.gpu_share, args.hang_timeout, args.device, dataset, held_out="validation"
    )
    if idle := -args.proposals % cluster.at_once:
        console.print(
            f"{args.proposals} trials are proposed per batch, {cluster.at_once} can be trained at once: {idle} of "
            f"these are idle at the end of each batch; --proposals {args.proposals + idle} starts a new study"
        )
    return cluster, device, description


def mark_interrupted(died: Mapping[int, str]) -> int:
    """Record why processes died, as `session.mark_interrupted` does, and for studies too."""
    return session.recorded(lambda tracker: _mark_dead_runs(tracker, died))


def _mark_dead_runs(tracker: Tracker, died: Mapping[int, str] | None = None) -> None:
    session.mark_dead_runs(tracker, died)
    for record in tuning.left_over():
        tracker.enqueue(record)


def _refuse_numbers(args: argparse.Namespace) -> None:
    ranges = {
        "trials": (1, MOST_TRIALS),
        "epochs": (1, 19),
        "jobs": (1, 256),
        "proposals": (1, MOST_TRIALS),
        "confirm": (0, MOST_SEEDS),
        "seed": (0, MOST_SEED),
    }
    for name, (low, high) in ranges.items():
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            raise UsageError(f"--{name} {value} is out of range.", allowed=f"Allowed: {low} to {high:,}.")
    if args.timeout is not None and not 0 < args.timeout <= options.LONGEST:
        raise UsageError(
            f"--timeout {args.timeout:g} is out of range.", allowed=f"Allowed: above 0, to {options.LONGEST:,} seconds."
        )


def _path(given: str) -> str:
    """Return the path of a study; a bare name means the file of that name under studies/.

    Raises:
        UsageError: there is no such study.
    """
    if Path(given).is_file() or Path(given).name != given or given.endswith(".py"):
        return given
    named = Path("studies") / f"{given}.py"
    if not named.is_file():
        allowed = sorted(file.stem for file in Path("studies").glob("*.py"))
        raise UsageError(
            f"There is no study '{given}'.",
            allowed=f"Allowed: {', '.join(allowed) or 'none here'}, or the path of a file.",
            hint=did_you_mean(given, allowed),
        )
    return str(named)


def _tune(
    search: Search, trials: int, timeout: float | None, pool: Workers, description: str, tracker: Tracker
) -> StudyRecord | None:
    """Print trials as they finish, and return the study as last recorded."""
    architecture = search.study.architecture
    console.rule(search.study.name, align="left")
    console.print(search.study.summary)
    console.print(
        f"searches {architecture.path} on {search.dataset.name}: {len(search.dataset.train.labels):,} images to train "
        f"on, {len(search.dataset.held_out.labels):,} to score on, no test image\n"
        f"{search.sampler} sampler, {search.pruner} pruner, seed {search.seed}, {description}; "
        f"saved in mlruns/studies/{search.id}\n"
    )
    record: StudyRecord | None = None
    rows = _Rows(trials)
    events = tuning.tune(search, trials, pool, timeout)
    with _progress() as progress:
        task = progress.add_task("", total=trials)
        at_work = _AtWork(progress)
        try:
            for event in events:
                if isinstance(event, News):
                    at_work.show(event)
                    continue
                if isinstance(event, StudyRecord):
                    record = event
                    tracker.enqueue(record)
                    rows.begin(record)
                else:
                    at_work.drop(event.number)
                    progress.console.print(rows.line(event))
                text = f"{rows.finished}/{trials} trials finished"
                progress.update(task, completed=rows.finished, description=text)
        finally:
            events.close()  # stops the workers
            if record and record.state == "running":  # stopped by an error, a signal or the timeout
                tracker.enqueue(replace(record, state="stopped"))
    if record is None or record.state != "finished":
        console.print("\nStopped by --timeout. Finished work is saved; run the same command again to resume.")
    return record


class _Rows:
    """The lines of the table of trials: state, score, best so far, parameters, time left, settings."""

    def __init__(self, wanted: int) -> None:
        self.finished = 0
        self._wanted = wanted
        self._best = 0.0
        self._began: float | None = None
        self._since = 0

    def begin(self, record: StudyRecord) -> None:
        """Take the counts from the record; the first time, print a summary and the table's head."""
        self.finished = sum(trial.state in tuning.COUNTED for trial in record.trials)
        best = tuning.winner(record.trials)
        self._best = best.value or 0.0 if best else 0.0
        if self._began is None:
            self._began = time.monotonic()
            if record.trials:
                console.print(f"resumes: {counts(record.trials)} already there")
            console.print(
                f"{'trial':>5}  {'state':<10}  {'score':>8}  {'best':>8}  {'parameters':>10}  {'left':>5}  settings"
            )

    def line(self, trial: Trial) -> str:
        """Return the line of a trial that has just finished."""
        assert self._began is not None
        self.finished += trial.state in tuning.COUNTED
        self._since += 1
        if trial.state == "complete":
            self._best = max(self._best, trial.value or 0.0)
        left = (time.monotonic() - self._began) / self._since * max(self._wanted - self.finished, 0)
        score = "" if trial.value is None else f"{100 * trial.value:.2f} %"
        parameters = "" if trial.parameters is None else f"{trial.parameters:,}"
        text = settings_text(trial.settings)
        if trial.same_as is not None:
            text += f"  (as trial {trial.same_as})"
        elif trial.state in ("failed", "diverged"):
            text += f"  {trial.reason[:200]}"
        best = f"{100 * self._best:.2f} %" if self._best else ""
        return (
            f"{trial.number:>5}  {trial.state:<10}  {score:>8}  {best:>8}  {parameters:>10}  "
            f"{duration(left):>5}  {text}"
        )


class _AtWork:
    """A progress bar for each trial that is being trained."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[int, TaskID] = {}

    def show(self, news: News) -> None:
        """Advance the bar of a trial; its first report creates the bar."""
        if news.number not in self._bars:
            self._bars[news.number] = self._progress.add_task("", total=news.epochs)
        assert isinstance(news.event, Epoch)
        accuracy = 100 * (news.event.held_out_accuracy or 0.0)
        text = f"trial {news.number}, {news.worker}: epoch {news.event.number}/{news.epochs}, {accuracy:.2f} %"
        self._progress.update(self._bars[news.number], completed=news.event.number, description=text)

    def drop(self, number: int) -> None:
        """Remove the bar of a finished trial."""
        if (bar := self._bars.pop(number, None)) is not None:
            self._progress.remove_task(bar)


def _progress() -> Progress:
    """Return progress bars that are shown on a terminal only and are removed at the end."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


# --- the end --------------------------------------------------------------------------------------------


def _conclude(search: Search, record: StudyRecord, here: str, is_confirmed: bool) -> None:
    """Print the counts, the winner, how much of its score may be luck, and the command that confirms it.

    Args:
        here: appended to that command's hint.
        is_confirmed: whether this command confirms the winner anyway.
    """
    console.print(f"\n{counts(record.trials)}")
    best = tuning.winner(record.trials)
    if best is None or best.value is None:
        console.print("No trial is complete: there is no winner.")
        return
    images = len(search.dataset.held_out.labels)
    candidates = sum(trial.state == "complete" and trial.same_as is None for trial in record.trials)
    console.print(f"winner: trial {best.number}, validation accuracy {100 * best.value:.2f} %", style="bold")
    expected = 100 * expected_selection_gain(best.value, images, candidates)
    console.print(
        f"The best of {candidates} equally good networks would score about {expected:.2f} points "
        f"above their mean by luck alone ({images:,} images)"
    )
    if not is_confirmed:
        command = run_command(search.study.architecture.path, search.dataset.name, best.settings)
        own_epochs = "" if "epochs" in best.settings else ", with the architecture's own number of epochs"
        console.print(
            f"confirm it on the test set{own_epochs}:\n"
            f"  {command} --seeds 5\n"
            f"or compare it with the default recipe: the same tune command with --confirm 5{here}"
        )
    console.print(f"look at it: python -m harness ui, experiment tune/{search.dataset.name}/{search.study.name}")


def _confirm(search: Search, record: StudyRecord, seeds: int, author: str, tracker: Tracker) -> None:
    """Train winner and default recipe with the same seeds on all training images, and compare them."""
    best = tuning.winner(record.trials)
    if best is None:
        console.print("Nothing to confirm.")
        return
    whole = data.load(search.dataset.name)
    architecture = search.study.architecture
    both = [
        runs.jobs(architecture, *plugins.apply_settings(architecture, settings), whole, range(seeds), search.device)
        for settings in (best.settings, {})
    ]
    if both[0] == both[1]:
        console.print("Nothing to confirm: the winner is the default recipe.")
        return
    for jobs, title in zip(both, (f"winner: {settings_text(best.settings)}", "default recipe"), strict=True):
        console.rule(title, align="left")
        progress.train_all(jobs, tracker, author=author)
    right = leaderboard.correct_predictions(all_journals(), [*both[0], *both[1]])
    winner, default = right[:seeds], right[seeds:]
    compared = compare(winner, default)
    found = {
        "n": float(seeds),
        "winner": float(winner.mean()),
        "default": float(default.mean()),
        "difference": compared.difference,
    }
    if compared.low is not None and compared.high is not None and compared.p is not None:
        found |= {"low95": compared.low, "high95": compared.high, "p": compared.p}
    record = tuning.confirm(search, found)
    tracker.enqueue(record)
    console.print(f"\n{confirmation_line(record.confirmation)}", style="bold")
