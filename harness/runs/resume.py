"""What is recorded of a job already: finished runs, and interrupted ones that can be resumed."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from harness import data, plugins
from harness.errors import DataError, UsageError, did_you_mean
from harness.journal import (
    DAMAGE,
    Environment,
    FinishedRun,
    Journal,
    Record,
    all_journals,
    journal_folder,
    typed,
    verify_run,
)
from harness.plugins import changed_settings, run_command
from harness.runs.device import choose_device, device_name
from harness.runs.environment import describe_environment
from harness.runs.train import Progress
from harness.spec import BUDGET, Architecture, Group, Job


@dataclass(frozen=True)
class ExistingRuns:
    """What there is of some jobs, by seed: records of finished runs, journals of runs that can be gone on with."""

    finished: dict[int, FinishedRun]
    unfinished: dict[int, Journal]

    @property
    def group(self) -> Group | None:
        """The group that all of them belong to."""
        read = [journal.read() for journal in self.unfinished.values()]
        groups = [run.start.group for run in (*self.finished.values(), *read) if run]
        return groups[0] if groups and groups.count(groups[0]) == len(groups) else None


def find_existing_runs(jobs: Sequence[Job], trained_here: bool = True) -> ExistingRuns:
    """Look among this machine's own runs for some that are these jobs, which differ by their seed alone.

    Args:
        trained_here: whether this machine trains them, and so can go on with those that were interrupted.
    """
    found = ExistingRuns({}, {})
    by_seed = {job.seed: job for job in jobs}
    here = _surroundings(_environment_here(jobs[0].device)) if trained_here else None
    for journal in all_journals():
        with contextlib.suppress(*DAMAGE):
            record = journal.read()
            if record is None or record.origin or (job := by_seed.get(record.job.seed)) is None:
                continue
            if identity_of(record.job) != identity_of(job):
                continue
            if record.state == "finished":
                with contextlib.suppress(DataError):  # it does not count, and is trained again
                    found.finished[job.seed] = verify_run(journal)
            elif record.state == "interrupted" and _surroundings(record.start.environment) == here:
                found.unfinished[job.seed] = journal
    for seed in found.finished:
        found.unfinished.pop(seed, None)
    return found


def load_interrupted(run_id: str) -> tuple[Job, Journal]:
    """Return an interrupted run as a job for today's file and machine, and its journal.

    Raises:
        UsageError: there is no such run, it is not interrupted, or it would not go on bit for bit; with what differs.
    """
    run_id = Path(run_id).name  # the whole path does as well: it is what a run prints
    journal = Journal(journal_folder() / run_id)
    known = [other.run_id for other in all_journals()]
    if run_id not in known:
        raise UsageError(
            f"There is no run '{run_id}' in {journal_folder()}.",
            allowed="Legal: the name of a folder there.",
            hint=did_you_mean(run_id, known),
        )
    try:
        return _load_interrupted(journal)
    except DAMAGE as error:
        raise DataError(
            f"{run_id} is damaged ({type(error).__name__}).", hint="The command that began it trains it anew."
        ) from error


def _load_interrupted(journal: Journal) -> tuple[Job, Journal]:
    run_id, record = journal.run_id, journal.read()
    if record is None:
        raise DataError(f"Nothing is recorded of {run_id}.", hint="The command that began it trains it anew.")
    progress_of(journal, record)  # can it be read at all?
    if record.origin or record.state != "interrupted":
        state = "came from elsewhere" if record.origin else f"is {record.state}"
        raise UsageError(f"{run_id} {state}.", allowed="Only a run that was interrupted can be gone on with.")
    if journal.checkpoint(len(record.epochs)) is None:
        why = "its checkpoints are damaged" if record.epochs else "it was interrupted before its first epoch was done"
        raise UsageError(f"{run_id} cannot be gone on with: {why}.", hint="The command that began it trains it anew.")
    architecture = plugins.load(record.job.path)
    job = replace(
        record.job,
        source=architecture.source,
        sha256=architecture.sha256,
        dataset_digest=data.load(record.job.dataset, record.job.held_out).digest,
        protocol=BUDGET.protocol,
    )
    then = identity_of(record.job) | _surroundings(record.start.environment)
    now = identity_of(job) | _surroundings(_environment_here(choose_device(job.device)))
    differing = [
        "the file was edited" if name == "plug-in" else f"{name}: {then[name]} then, {now[name]} now"
        for name in then
        if then[name] != now[name]
    ]
    if differing:
        raise UsageError(
            f"{run_id} would not go on bit for bit here.",
            allowed="; ".join(differing) + ".",
            hint=f"Put that back as it was, or train anew: {_command(job, architecture)} --retrain",
        )
    return job, journal


def _command(job: Job, architecture: Architecture) -> str:
    """Return what to type to train a job with the file as it is now."""
    changed = changed_settings(job.knobs, job.recipe, architecture.knobs, architecture.recipe)
    return f"{run_command(job.path, job.dataset, changed)} --seed {job.seed}"


def identity_of(job: Job) -> dict[str, Any]:
    """Return what makes a job this one and no other, by the names people use."""
    names = ("knobs", "recipe", "dataset", "dataset_digest", "seed", "device", "held_out", "plain", "protocol")
    described = asdict(job)
    return {"plug-in": job.sha256} | {name.replace("_", " "): described[name] or None for name in names}


def _surroundings(environment: Environment) -> dict[str, Any]:
    """Return what else the bits of a run depend on; its arithmetic is kept."""
    names = ("threads", "torch", "harness")
    return {"machine": environment.device} | {name: getattr(environment, name) for name in names}


def _environment_here(device: str) -> Environment:
    return typed(Environment, describe_environment(device_name(torch.device(device))))


def progress_of(journal: Journal, record: Record) -> Progress | None:
    """Return how far an interrupted run came, or None without a whole checkpoint."""
    epochs = record.typed_epochs()
    checkpoint = journal.checkpoint(len(epochs))
    return Progress(checkpoint, epochs, record.start.mode) if checkpoint else None
