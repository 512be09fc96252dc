"""The records of runs: written, read, verified, exported and imported."""

from harness.journal.archive import Arrival
from harness.journal.journal import (
    DAMAGE,
    OUTCOME,
    PROFILE,
    ROOT,
    Journal,
    all_journals,
    journals,
    plain,
    settle_left_overs,
)
from harness.journal.outcome import Outcome
from harness.journal.record import Environment, FinishedRun, Origin, Record, RunResult, RunStart, typed
from harness.journal.verify import verify_outcome, verify_run

__all__ = [
    "DAMAGE",
    "OUTCOME",
    "PROFILE",
    "ROOT",
    "Arrival",
    "Environment",
    "FinishedRun",
    "Journal",
    "Origin",
    "Outcome",
    "Record",
    "RunResult",
    "RunStart",
    "all_journals",
    "journals",
    "plain",
    "settle_left_overs",
    "typed",
    "verify_outcome",
    "verify_run",
]
