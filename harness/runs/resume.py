"""Finds existing runs of a job: finished ones, and interrupted ones that can be resumed."""

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
from harness.runs.job import new_group
from harness.runs.train import Progress
from harness.spec import BUDGET, Architecture, Group, Job


@dataclass(frozen=True)
class ExistingRuns:
    """Existing runs of some jobs, by seed: finished runs, and journals of runs that can be resumed."""

    finished: dict[int, FinishedRun]
    unfinished: dict[int, Journal]

    @property
    def group(self) -> Group | None:
        """The group that all of them belong to, or None."""
        read = [journal.read() for journal in self.unfinished.values()]
        groups = [run.start.group for run in (*self.finished.values(), *read) if run]
        return groups[0] if groups and groups.count(groups[0]) == len(groups) else None


def find_existing_runs(jobs: Sequence[Job], trained_here: bool = True) -> ExistingRuns:
    """Find the runs of this machine that match `jobs`, which must differ only in their seed.

    Args:
        trained_here: whether this machine trains the jobs, so that it can resume interrupted ones.
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
                with contextlib.suppress(DataError):  # it does not count and is trained again
                    found.finished[job.seed] = verify_run(journal)
            elif record.state == "interrupted" and _surroundings(record.start.environment) == here:
                found.unfinished[job.seed] = journal
    for seed in found.finished:
        found.unfinished.pop(seed, None)
    return found


@dataclass(frozen=True)
class TrainingPlan:
    """What is to be done about some jobs.

    Attributes:
        finished: runs that need no training, by seed.
        missing: the jobs to train.
        unfinished: by seed, the journals of those that can be resumed.
        group: of all of them, for MLflow; None for a single run.
    """

    finished: dict[int, FinishedRun]
    missing: list[Job]
    unfinished: dict[int, Journal]
    group: Group | None


def plan_training(jobs: Sequence[Job], retrain: bool = False, trained_here: bool = True) -> TrainingPlan:
    """Find out which of these jobs, which differ by their seed alone, are to be trained, and which can be resumed.

    Args:
        retrain: train all of them from the start.
        trained_here: whether this machine trains them, and so can resume those that were interrupted.
    """
    found = ExistingRuns({}, {}) if retrain else find_existing_runs(jobs, trained_here)
    missing = [job for job in jobs if job.seed not in found.finished]
    same_group = found.group is not None and found.group.size == len(jobs)
    return TrainingPlan(
        found.finished, missing, found.unfinished, found.group if same_group else new_group(len(missing))
    )


def load_interrupted(run_id: str) -> tuple[Job, Journal]:
    """Return the job of an interrupted run, with the file as it is now, and the run's journal.

    Args:
        run_id: name or path of a folder in ``mlruns/journal/``.

    Raises:
        UsageError: there is no such run, it is not interrupted, or it would not resume bit for bit.
        DataError: its journal is damaged.
    """
    run_id = Path(run_id).name  # a run prints its whole path
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
            f"{run_id} is damaged ({type(error).__name__}).", hint="The command that started it trains it again."
        ) from error


def _load_interrupted(journal: Journal) -> tuple[Job, Journal]:
    run_id, record = journal.run_id, journal.read()
    if record is None:
        raise DataError(f"{run_id} has no recorded events.", hint="The command that started it trains it again.")
    progress_of(journal, record)  # raises if the journal is damaged
    if record.origin or record.state != "interrupted":
        state = "imported" if record.origin else record.state
        raise UsageError(f"{run_id} is {state}.", allowed="Only an interrupted run can be resumed.")
    if journal.checkpoint(len(record.epochs)) is None:
        why = "its checkpoints are damaged" if record.epochs else "it was interrupted before the end of its first epoch"
        raise UsageError(f"{run_id} cannot be resumed: {why}.", hint="The command that started it trains it again.")
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
            f"{run_id} would not resume bit for bit here.",
            allowed="; ".join(differing) + ".",
            hint=f"Restore that, or train from the start: {_command(job, architecture)} --retrain",
        )
    return job, journal


def _command(job: Job, architecture: Architecture) -> str:
    """Return the command that trains a job with the file as it is now."""
    changed = changed_settings(job.knobs, job.recipe, architecture.knobs, architecture.recipe)
    return f"{run_command(job.path, job.dataset, changed)} --seed {job.seed}"


def identity_of(job: Job) -> dict[str, Any]:
    """Return the facts that identify a job, by their display names."""
    names = ("knobs", "recipe", "dataset", "dataset_digest", "seed", "device", "held_out", "plain", "protocol")
    described = asdict(job)
    return {"plug-in": job.sha256} | {name.replace("_", " "): described[name] or None for name in names}


def _surroundings(environment: Environment) -> dict[str, Any]:
    """Return what else the bits of a run depend on, except the compute mode, which a resumed run keeps."""
    names = ("threads", "torch", "harness")
    return {"machine": environment.device} | {name: getattr(environment, name) for name in names}


def _environment_here(device: str) -> Environment:
    return typed(Environment, describe_environment(device_name(torch.device(device))))


def progress_of(journal: Journal, record: Record) -> Progress | None:
    """Return the progress of an interrupted run, or None if it has no intact checkpoint."""
    epochs = record.typed_epochs()
    checkpoint = journal.checkpoint(len(epochs))
    return Progress(checkpoint, epochs, record.start.mode) if checkpoint else None
