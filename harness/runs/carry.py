"""Carry runs of protocol 1 over to protocol 2, where their graph, count and start are equal.

Protocol 1 executed a file in the process that trained; protocol 2 has it executed in a confined one, and trains what
that hands over. For most networks both give the same training. So that such a run counts on, its recorded file is
executed once more, in confinement: it must give a network that passes today's audit with the recorded ledger, and for
the run's seed a build as in protocol 1 must have the bits of a replayed start.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness import submission
from harness.errors import DataError, HarnessError
from harness.journal import (
    Carried,
    Counted,
    FinishedRun,
    Journal,
    all_journals,
    counted,
    refuse_other_ledger,
    verify_outcome,
    verify_run,
)
from harness.spec import BUDGET, CARRIED_FROM, Job
from harness.submission import Submission


def runs_to_carry() -> list[Journal]:
    """Return the finished runs of an older protocol that are otherwise consistent and could be carried over."""
    return [journal for journal in all_journals() if _finished(journal)]


def carry_over(journals: Sequence[Journal]) -> Iterator[tuple[Journal, str]]:
    """Carry runs over; yield each with the reason why it is left as it is, empty if it was carried over.

    This executes their recorded files, in confinement.
    """
    known: dict[tuple[str, str, str], _Network | HarnessError] = {}
    for journal in journals:
        reason = "it is not a finished run of an older protocol"
        if run := _finished(journal):
            try:
                network = _network_of(journal, run.job, known)
                _refuse_difference(journal, run, network)
                data = network.data
                now = round(time.time() * 1000)
                note = Carried(data.hash, run.job.protocol, BUDGET.protocol, now)
                journal.carry_over(data.text, note)
                reason = ""
            except HarnessError as error:
                reason = error.message
        yield journal, reason


@dataclass(frozen=True)
class _Network:
    """What a recorded file gives now."""

    data: Submission
    counted: Counted


def _finished(journal: Journal) -> FinishedRun | None:
    with contextlib.suppress(DataError):
        run = verify_run(journal, CARRIED_FROM)
        verify_outcome(journal, run)
        return run if run.job.protocol in CARRIED_FROM else None
    return None


def _network_of(journal: Journal, job: Job, known: dict[tuple[str, str, str], _Network | HarnessError]) -> _Network:
    """Submit and audit a run's recorded file, once for all seeds."""
    key = (job.sha256, job.path, repr(sorted(job.knobs.items())))
    if key not in known:
        try:
            data = submission.submit(journal.source, job.path, job.knobs)
            known[key] = _Network(data, counted(data.text, job.path))
        except HarnessError as error:
            known[key] = error
    found = known[key]
    if isinstance(found, HarnessError):
        raise found
    return found


def _refuse_difference(journal: Journal, run: FinishedRun, network: _Network) -> None:
    """Refuse a run whose ledger or start is not that of the network that its file gives now."""
    job = run.job
    refuse_other_ledger(run.start, network.counted)
    replayed = submission.digest_of_start(submission.started(network.data, job.seed, "weights", job.path))
    if submission.digest_of_build(journal.source, job.path, job.knobs, job.seed) != replayed:
        raise DataError("the replayed start differs from the one that its file built under the older protocol")
