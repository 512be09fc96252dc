"""MLflow: a projection of journals, studies and sweeps. The only package that imports mlflow."""

from harness.tracking.connection import address, own_database, tracking_uri
from harness.tracking.notes import unrepeatable_line
from harness.tracking.study_notes import confirmation_line, counts
from harness.tracking.sweeps import SWEEPS
from harness.tracking.tracker import Source, Tracker, experiments, find_outdated, pull, record_sweep, sync

__all__ = [
    "SWEEPS",
    "Source",
    "Tracker",
    "address",
    "confirmation_line",
    "counts",
    "experiments",
    "find_outdated",
    "own_database",
    "pull",
    "record_sweep",
    "sync",
    "tracking_uri",
    "unrepeatable_line",
]
