"""Interrupted runs: loaded as a job and a journal, to be resumed bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harness import data, plugins
from harness.errors import DataError, UsageError, did_you_mean
from harness.journal import (
    DAMAGE,
    Journal,
    Record,
    all_journals,
    journal_folder,
)
from harness.plugins import changed_settings, run_command
from harness.runs.device import choose_device
from harness.runs.existing import environment_here, identity_of, surroundings_of
from harness.runs.train import Progress
from harness.spec import BUDGET, Job


def load_interrupted(run_id: str) -> tuple[Job, Journal]:
    """Return the job of an interrupted run, with its network as it was handed over, and the run's journal.

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
            allowed="Allowed: the name of a folder there.",
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
    job = replace(
        record.job,
        source=journal.source,
        submission=journal.submission,
        dataset_digest=data.load(record.job.dataset, record.job.held_out).digest,
        protocol=BUDGET.protocol,
    )
    then = identity_of(record.job) | surroundings_of(record.start.environment)
    now = identity_of(job) | surroundings_of(environment_here(choose_device(job.device)))
    differing = [f"{name}: {then[name]} then, {now[name]} now" for name in then if then[name] != now[name]]
    if differing:
        raise UsageError(
            f"{run_id} would not resume bit for bit here.",
            allowed="; ".join(differing) + ".",
            hint=f"Restore that, or train from the start: {_command(job)} --retrain",
        )
    return job, journal


def _command(job: Job) -> str:
    """Return the command that trains a job with its file as it was."""
    own = plugins.declaration(job.source)
    changed = changed_settings(job.knobs, job.recipe, {**job.default_knobs, **own.knobs}, own.recipe)
    return f"{run_command(job.path, job.dataset, changed)} --seed {job.seed}{' --reference' if job.plain else ''}"


def progress_of(journal: Journal, record: Record) -> Progress | None:
    """Return the progress of an interrupted run, or None if it has no intact checkpoint."""
    epochs = record.typed_epochs()
    checkpoint = journal.checkpoint(len(epochs))
    return Progress(checkpoint, epochs, record.start.mode) if checkpoint else None
