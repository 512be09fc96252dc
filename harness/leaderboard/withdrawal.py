"""Runs that their user takes back: they stay, with the reason, and their seeds count as missing.

No import brings them back, under whatever id or seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from harness.errors import DataError, UsageError, printable
from harness.journal import DAMAGE, Begun, Journal, Record, Register, Run, begun, find_journal, result_digest
from harness.leaderboard.row import row_key
from harness.leaderboard.sample import LeftOut

MOST_REASON = 120
"""Most characters of a reason."""


def withdraw(run_id: str, because: str, dataset: str = "auto") -> str:
    """Withdraw a finished run, in the register and in its journal, and return its id. It cannot be undone.

    Args:
        run_id: name or path of a folder in ``mlruns/journal/``.
        because: the reason, which boards show.
        dataset: that of the run; ``auto`` for any.

    Raises:
        UsageError: there is no such run, it is not finished, was withdrawn before or is of another dataset, or the
            reason is empty, long or unprintable.
        DataError: its journal is damaged.
    """
    because = because.strip()
    if not because or len(because) > MOST_REASON or not because.isprintable():
        raise UsageError(
            "A run is withdrawn with a reason, which boards show.",
            allowed=f"Allowed: one line of 1 to {MOST_REASON} printable characters.",
            hint='Add --because "the reason".',
        )
    journal = find_journal(Path(run_id).name)
    record = _finished(journal)
    job = record.job
    if dataset not in ("auto", job.dataset):
        raise UsageError(f"{journal.run_id} is a run on {job.dataset}, not on {dataset}.", hint="Leave --dataset out.")
    entry = Begun(journal.run_id, row_key(job), record.start.title, job.dataset, job.seed, job.protocol)
    begun.withdraw(entry, because, _result(journal, record))  # first: it outlives the journal
    journal.append("failed", state="withdrawn", reason=because)
    return journal.run_id


def brought_back(register: Register, runs: Iterable[Run]) -> Iterator[LeftOut]:
    """Yield the imported runs whose row and seed, or whose result, were withdrawn on this machine."""
    withdrawn = [entry for entry in register.runs.values() if entry.withdrawn]
    seeds = {(entry.begun.row, entry.begun.seed): entry.withdrawn for entry in withdrawn}
    results = {entry.result: entry.withdrawn for entry in withdrawn if entry.result}
    for run in runs:
        because = run.is_imported and (seeds.get((row_key(run.facts.job), run.seed)) or results.get(run.digest))
        if because:
            yield LeftOut(run.run_id, f"its seed or result was withdrawn here: {printable(because)}", run.facts.job)


def _result(journal: Journal, record: Record) -> str:
    """Return the hash of a result, or nothing if its predictions are damaged."""
    try:
        outcome = journal.outcome()
    except DataError:
        return ""
    return result_digest([epoch.train_loss for epoch in record.typed_epochs()], outcome.answers == outcome.labels)


def _finished(journal: Journal) -> Record:
    try:
        record = journal.read()
        if record and record.state == "finished":
            return record
    except DAMAGE as error:
        raise DataError(
            f"{journal.run_id} is damaged ({type(error).__name__}).", allowed="Such a run does not count anyway."
        ) from error
    if record and record.state == "withdrawn":
        raise UsageError(
            f"{journal.run_id} is already withdrawn, because: {printable(record.reason)}.", allowed="The reason stays."
        )
    raise UsageError(
        f"{journal.run_id} is {record.state if record else 'empty'}.", allowed="Only a finished run can be withdrawn."
    )
