"""Places to work in: an empty folder with a prepared MLflow store, and a network that trains in a blink."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("harness", deadline=None)  # a first optimiser or import takes a second
settings.load_profile("harness")

TINY = '''"""A linear layer on a coarse image."""
from torch import nn

RECIPE = {"batch_size": 64, "lr": 0.1, "epochs": 2}


def build(*, width: int = 7, dropout: float = 0.1) -> nn.Module:
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(width), nn.Flatten(), nn.BatchNorm1d(width * width), nn.Dropout(dropout),
        nn.Linear(width * width, 10),
    )
'''
"""98 + 500 parameters; an epoch of digits takes milliseconds."""


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an SQLite file with MLflow's schema and nothing in it: making one takes seconds, copying it none."""
    from harness.tracking.client import Client

    database = tmp_path_factory.mktemp("store") / "mlflow.db"
    Client(f"sqlite:///{database}")
    return database


@pytest.fixture
def workplace(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in an empty folder with its own store and ``tiny.py``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlruns").mkdir()
    shutil.copy(empty_store, tmp_path / "mlruns" / "mlflow.db")
    (tmp_path / "tiny.py").write_text(TINY)
    return tmp_path


def is_alive(pid: int) -> bool:
    """Whether a process is there and runs; one that was killed may wait for ever for somebody to ask how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
