"""MLflow: a projection of journals, studies and sweeps. The only package that knows mlflow."""

from harness.tracking.notes import unrepeatable_line
from harness.tracking.study_notes import confirmation_line, counts
from harness.tracking.tracking import (
    PATIENCE_SECONDS,
    SWEEPS,
    Source,
    Tracker,
    address,
    behind,
    experiments,
    own_database,
    pull,
    record_sweep,
    sync,
    tracking_uri,
)

__all__ = [
    "PATIENCE_SECONDS",
    "SWEEPS",
    "Source",
    "Tracker",
    "address",
    "behind",
    "confirmation_line",
    "counts",
    "experiments",
    "own_database",
    "pull",
    "record_sweep",
    "sync",
    "tracking_uri",
    "unrepeatable_line",
]
