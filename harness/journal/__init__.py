"""The records of runs: written, read, verified, exported and imported."""

from harness.journal.archive import Imported
from harness.journal.journal import (
    DAMAGE,
    OUTCOME,
    PROFILE,
    ROOT,
    Journal,
    all_journals,
    journal_folder,
    mark_dead_runs,
    safe_name,
)
from harness.journal.outcome import Outcome
from harness.journal.record import Environment, FinishedRun, Origin, Record, RunResult, RunStart, typed
from harness.journal.verify import verify_outcome, verify_run

__all__ = [
    "DAMAGE",
    "OUTCOME",
    "PROFILE",
    "ROOT",
    "Environment",
    "FinishedRun",
    "Imported",
    "Journal",
    "Origin",
    "Outcome",
    "Record",
    "RunResult",
    "RunStart",
    "all_journals",
    "journal_folder",
    "mark_dead_runs",
    "safe_name",
    "typed",
    "verify_outcome",
    "verify_run",
]
