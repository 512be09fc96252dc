"""Trains a job and writes each event to its journal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, fields, replace

import filelock
import numpy as np

from harness import confine, watchdog
from harness.errors import ClusterLost, CrashedError, DivergedError, HarnessError, OutOfMemory, UsageError
from harness.events import Checkpoint, Epoch, Result
from harness.journal import DAMAGE, Begun, Journal, Outcome, begun, result_digest
from harness.leaderboard import row_key
from harness.runs.environment import describe_process
from harness.runs.resume import progress_of
from harness.runs.train import Event, Progress, Started, crash_of, train
from harness.spec import Group, Job
from harness.tracking import Tracker
from harness.training import softmax

Trainer = Callable[[Job], Iterator[Event | None]]
"""Trains a job from the start, for instance on a cluster, and yields what `train` would."""


def record(
    job: Job,
    tracker: Tracker,
    group: Group | None = None,
    unfinished: Journal | None = None,
    restart_if_taken: bool = True,
    trainer: Trainer | None = None,
    author: str = "",
) -> Generator[Event | None]:
    """Train `job` and yield its events, each after it was written to the journal.

    The journal is created with the first event, so a refused job leaves none. It is locked while the run trains.

    Args:
        tracker: notified of every new event.
        group: the seeds that the job was started with.
        unfinished: journal of an interrupted run of this job; the run is resumed, unless another process resumes it.
        restart_if_taken: if another process resumes it, train the job from the start.
        trainer: trains the job; by default this process does.
        author: recorded with a run that starts now; a resumed run keeps its own.

    Raises:
        UsageError: another process resumes the run, and `restart_if_taken` is False.
        HarnessError: as `train`; any other error during training becomes a `CrashedError`.
    """
    with contextlib.ExitStack() as held:
        progress = _take_up(unfinished, held) if unfinished else None
        if unfinished and not progress and not restart_if_taken:
            raise UsageError(f"Another process is resuming {unfinished.run_id}.", hint="Wait for it to finish.")
        journal = unfinished if progress else None
        trained = trainer(job) if trainer else train(job, progress, keep=True)
        yield from _write_events(job, tracker, group, author, journal, progress, trained, held)


def _take_up(journal: Journal, held: contextlib.ExitStack) -> Progress | None:
    """Lock a journal and return the progress of its run, or None if it cannot be resumed: locked, ended, damaged."""
    try:
        held.enter_context(journal.lock())
    except filelock.Timeout:
        return None
    with contextlib.suppress(*DAMAGE):
        record = journal.read()
        if record and record.state == "interrupted":
            journal.cut_torn_line()
            return progress_of(journal, record)
    return None


def _write_events(
    job: Job,
    tracker: Tracker,
    group: Group | None,
    author: str,
    journal: Journal | None,
    progress: Progress | None,
    trained: Iterator[Event | Checkpoint | None],
    held: contextlib.ExitStack,
) -> Generator[Event | None]:
    known = progress.epochs if progress else ()
    repeats = True
    try:
        for event in trained:
            watchdog.heartbeat()
            if isinstance(event, Checkpoint):
                assert journal
                journal.store_checkpoint(event)
                continue
            if isinstance(event, Started):
                if journal:
                    journal.append("resumed", epoch=event.epochs_before, **describe_process())
                    if journal.run_id not in begun.read().runs:
                        begun.begin(_begun(job, journal))
                else:
                    journal = Journal.create(f"{job.name}-s{job.seed}")
                    held.enter_context(journal.lock())
                    journal.store(job.source, job.submission)
                    journal.append("started", **_started(job, event, group, author))
                    begun.begin(_begun(job, journal))
                event = replace(event, run_id=journal.run_id)
                repeats = not event.unrepeatable
            elif isinstance(event, Epoch) and journal:
                _record_epoch(journal, event, known, repeats)
            elif isinstance(event, Result) and journal:
                _finish(journal, event)
            if journal and event:
                tracker.enqueue(journal)
            yield event
    except (KeyboardInterrupt, GeneratorExit):
        _fail(journal, tracker, "interrupted", "stopped before its last epoch")
        raise
    except HarnessError as error:
        _fail(journal, tracker, _state(error), error.message)
        raise
    except Exception as error:
        crashed = crash_of(job, error)
        _fail(journal, tracker, _state(crashed), crashed.message)
        raise crashed from error


def _record_epoch(journal: Journal, epoch: Epoch, known: Sequence[Epoch], repeats: bool) -> None:
    """Write an epoch to the journal, or compare it with what was written before the interruption.

    Args:
        repeats: whether this device gives the same bits again.
    """
    if epoch.number > len(known):
        journal.append("epoch", **asdict(epoch))
    elif repeats:
        _refuse_other_bits(epoch, known[epoch.number - 1])


def _state(error: HarnessError) -> str:
    """Return the recorded state of a run that ended with `error`."""
    # The command line was checked before the run started: a UsageError now is about a disk, and the run can resume.
    if isinstance(error, (UsageError, ClusterLost)):
        return "interrupted"
    if isinstance(error, OutOfMemory):
        return "out of memory"
    return "diverged" if isinstance(error, DivergedError) else "failed"


def _refuse_other_bits(again: Epoch, known: Epoch) -> None:
    """Refuse a repeated epoch that differs from its record; an epoch is repeated if its checkpoint was lost."""
    if any(
        getattr(again, declared.name) != getattr(known, declared.name)
        for declared in fields(Epoch)
        if declared.name not in Epoch.CLOCKED
    ):
        raise CrashedError(
            f"Epoch {again.number} gives other numbers than before the interruption: "
            f"training loss {again.train_loss!r} instead of {known.train_loss!r}.",
            allowed="A run resumes only on a machine that gives the same bits again.",
            hint="Train it from the start: the same command with --retrain.",
        )


def _begun(job: Job, journal: Journal) -> Begun:
    record = journal.read()
    assert record
    return Begun(journal.run_id, row_key(job), record.start.title, job.dataset, job.seed, job.protocol)


def _finish(journal: Journal, result: Result) -> None:
    outcome = Outcome(
        answers=result.logits.argmax(1).astype(np.uint8),
        labels=result.labels,
        hardest=result.hardest,
        confidence=softmax(result.logits[result.hardest]).max(1),
        images=result.images,
    )
    journal.store_outcome(outcome, result.logits, result.weights)
    arrays = ("logits", "labels", "images", "hardest", "weights")
    names = [declared.name for declared in fields(Result) if declared.name not in arrays]
    journal.append("finished", **{name: getattr(result, name) for name in names})
    record = journal.read()
    assert record
    losses = [epoch.train_loss for epoch in record.typed_epochs()]
    begun.finish(journal.run_id, result_digest(losses, outcome.answers == outcome.labels))
    journal.drop_checkpoints()


def _fail(journal: Journal | None, tracker: Tracker, state: str, reason: str) -> None:
    record = journal.read() if journal else None
    if journal and record and not record.ended:  # the consumer may also stop after the result
        with contextlib.suppress(UsageError):  # a full disk: the next command marks the run as interrupted
            journal.append("failed", state=state, reason=reason)
        if state != "interrupted":
            journal.drop_checkpoints()
        tracker.enqueue(journal)


def _started(job: Job, started: Started, group: Group | None, author: str) -> dict[str, object]:
    described = asdict(job)
    for name in ("source", "submission"):  # they are kept as files
        del described[name]
    return {
        "job": described,
        "group": asdict(group) if group else None,
        "author": author,
        "is_benchmark": started.is_benchmark,
        "parameters": started.ledger.parameters,
        "ledger": [asdict(entry) for entry in started.ledger.entries],
        "anatomy": asdict(started.model),
        "environment": {
            **started.environment,
            **describe_process(),
            "arithmetic": asdict(started.mode),
            "unrepeatable": list(started.unrepeatable),
            "not_enforced": list(confine.isolation().missing),
        },
    }
