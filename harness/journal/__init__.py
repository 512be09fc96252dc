"""The records of runs: written, read, verified, exported and imported."""

from harness.journal.archive import Arrival
from harness.journal.journal import (
    DAMAGE,
    OUTCOME,
    PROFILE,
    ROOT,
    Event,
    Journal,
    Outcome,
    Record,
    all_journals,
    journals,
    plain,
    settle_left_overs,
)

__all__ = [
    "DAMAGE",
    "OUTCOME",
    "PROFILE",
    "ROOT",
    "Arrival",
    "Event",
    "Journal",
    "Outcome",
    "Record",
    "all_journals",
    "journals",
    "plain",
    "settle_left_overs",
]
