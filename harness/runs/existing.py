"""The runs that are recorded of some jobs already: finished ones, and interrupted ones that can be resumed."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from harness.errors import DataError
from harness.journal import (
    DAMAGE,
    Environment,
    FinishedRun,
    Journal,
    all_journals,
    typed,
    verify_run,
)
from harness.runs.device import device_name
from harness.runs.environment import describe_environment
from harness.runs.job import new_group
from harness.spec import Group, Job


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
    here = surroundings_of(environment_here(jobs[0].device)) if trained_here else None
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
            elif record.state == "interrupted" and surroundings_of(record.start.environment) == here:
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


def identity_of(job: Job) -> dict[str, Any]:
    """Return the facts that identify a job, by their display names."""
    names = ("knobs", "recipe", "dataset", "dataset_digest", "seed", "device", "held_out", "plain", "protocol")
    described = asdict(job)
    return {"network": job.network or job.sha256} | {name.replace("_", " "): described[name] or None for name in names}


def surroundings_of(environment: Environment) -> dict[str, Any]:
    """Return what else the bits of a run depend on, except the compute mode, which a resumed run keeps."""
    names = ("threads", "torch", "harness")
    return {"processor": environment.device} | {name: getattr(environment, name) for name in names}


def environment_here(device: str) -> Environment:
    """Return the environment of a run that starts now in this process."""
    return typed(Environment, describe_environment(device_name(torch.device(device))))
