"""What is recorded of a job already: finished runs, and interrupted ones that can be resumed."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from harness import data, plugins
from harness.errors import DataError, UsageError, did_you_mean
from harness.events import Epoch
from harness.journal import DAMAGE, Journal, Record, all_journals, journals, verify
from harness.plugins import value_text
from harness.runs.device import choose_device, device_name
from harness.runs.environment import describe_environment
from harness.runs.job import Group
from harness.runs.train import Progress
from harness.spec import BUDGET, RECIPE_FIELDS, Architecture, Job, Recipe


@dataclass(frozen=True)
class Earlier:
    """What there is of some jobs, by seed: records of finished runs, journals of runs that can be gone on with."""

    finished: dict[int, Record]
    unfinished: dict[int, Journal]

    @property
    def group(self) -> Group | None:
        """The group that all of them belong to."""
        known = [*self.finished.values(), *(journal.read() for journal in self.unfinished.values())]
        groups = [record.started["group"] for record in known if record]
        return Group(**groups[0]) if groups and groups[0] and groups.count(groups[0]) == len(groups) else None


def earlier(jobs: Sequence[Job], trained_here: bool = True) -> Earlier:
    """Look among this machine's own runs for some that are these jobs, which differ by their seed alone.

    Args:
        trained_here: whether this machine trains them, and so can go on with those that were interrupted.
    """
    found = Earlier({}, {})
    by_seed = {job.seed: job for job in jobs}
    here = _surroundings(describe_environment(device_name(torch.device(jobs[0].device)))) if trained_here else None
    for journal in all_journals():
        with contextlib.suppress(*DAMAGE):
            record = journal.read()
            if record is None or record.origin or (job := by_seed.get(record.job["seed"])) is None:
                continue
            if identity_of(record.job) != identity_of(json.loads(json.dumps(asdict(job)))):
                continue
            if record.state == "finished":
                with contextlib.suppress(DataError):  # it does not count, and is trained again
                    found.finished[job.seed] = verify.finished(journal)
            elif record.state == "interrupted" and _surroundings(record.started["environment"]) == here:
                found.unfinished[job.seed] = journal
    for seed in found.finished:
        found.unfinished.pop(seed, None)
    return found


def interrupted(run_id: str) -> tuple[Job, Journal]:
    """Return an interrupted run as a job for today's file and machine, and its journal.

    Raises:
        UsageError: there is no such run, it is not interrupted, or it would not go on bit for bit; with what differs.
    """
    run_id = Path(run_id).name  # the whole path does as well: it is what a run prints
    journal = Journal(journals() / run_id)
    known = [other.run_id for other in all_journals()]
    if run_id not in known:
        raise UsageError(
            f"There is no run '{run_id}' in {journals()}.",
            legal="Legal: the name of a folder there.",
            mend=did_you_mean(run_id, known),
        )
    try:
        return _interrupted(journal)
    except DAMAGE as error:
        raise DataError(
            f"{run_id} is damaged ({type(error).__name__}).", mend="The command that began it trains it anew."
        ) from error


def _interrupted(journal: Journal) -> tuple[Job, Journal]:
    run_id, record = journal.run_id, journal.read()
    if record is None:
        raise DataError(f"Nothing is recorded of {run_id}.", mend="The command that began it trains it anew.")
    progress_of(journal, record)  # can it be read at all?
    if record.origin or record.state != "interrupted":
        state = "came from elsewhere" if record.origin else f"is {record.state}"
        raise UsageError(f"{run_id} {state}.", legal="Only a run that was interrupted can be gone on with.")
    if journal.checkpoint(len(record.epochs)) is None:
        why = "its checkpoints are damaged" if record.epochs else "it was interrupted before its first epoch was done"
        raise UsageError(f"{run_id} cannot be gone on with: {why}.", mend="The command that began it trains it anew.")
    architecture = plugins.load(record.job["path"])
    described = {**record.job, "source": architecture.source, "sha256": architecture.sha256}
    recipe = Recipe(**{name: record.job["recipe"][name] for name in RECIPE_FIELDS})
    digest = data.load(record.job["dataset"], record.job["held_out"]).digest
    job = Job(**{**described, "recipe": recipe, "dataset_digest": digest, "protocol": BUDGET.protocol})
    then = identity_of(record.job) | _surroundings(record.started["environment"])
    now = identity_of(json.loads(json.dumps(asdict(job)))) | _surroundings(
        describe_environment(device_name(torch.device(choose_device(job.device))))
    )
    differing = [
        "the file was edited" if name == "plug-in" else f"{name}: {then[name]} then, {now[name]} now"
        for name in then
        if then[name] != now[name]
    ]
    if differing:
        raise UsageError(
            f"{run_id} would not go on bit for bit here.",
            legal="; ".join(differing) + ".",
            mend=f"Put that back as it was, or train anew: {_command(job, architecture)} --again",
        )
    return job, journal


def _command(job: Job, architecture: Architecture) -> str:
    """Return what to type to train a job with the file as it is now."""
    given = {name: value for name, value in job.knobs.items() if value != architecture.knobs.get(name)}
    theirs = asdict(architecture.recipe)
    given |= {name: value for name, value in asdict(job.recipe).items() if value != theirs[name]}
    settings = "".join(f" --set {name}={value_text(value)}" for name, value in given.items())
    return f"python -m harness run {shlex.quote(job.path)} --dataset {job.dataset} --seed {job.seed}{settings}"


def identity_of(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return what makes a job this one and no other, by the names people use."""
    names = ("knobs", "recipe", "dataset", "dataset_digest", "seed", "device", "held_out", "plain", "protocol")
    return {"plug-in": job["sha256"]} | {name.replace("_", " "): job.get(name) or None for name in names}


def _surroundings(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Return what else the bits of a run depend on; its arithmetic is kept."""
    names = ("threads", "torch", "harness")
    return {"machine": environment["device"]} | {name: environment[name] for name in names}


def progress_of(journal: Journal, record: Record) -> Progress | None:
    """Return how far an interrupted run came, or None without a whole checkpoint."""
    names = {declared.name for declared in fields(Epoch)}
    epochs = tuple(Epoch(**{name: event[name] for name in names & event.keys()}) for event in record.epochs)
    checkpoint = journal.checkpoint(len(epochs))
    return Progress(checkpoint, epochs, record.arithmetic) if checkpoint else None
