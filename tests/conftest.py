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


MINUTES = (
    "test_runs_repeat_bit_for_bit",
    "test_record_stages_complete",
    "test_audit_counts_recorded_parameters[p4m_convolution",
    "test_every_seed_uses_the_same_mode[depthwise_head",
    "test_every_seed_uses_the_same_mode[p4m_convolution",
    "test_scored_weights_reproduce_answers_in_plug_in[p4m_convolution",
    "test_run_resumes_when_disk_is_writable_again[read-only",
)
"""Tests of minutes whose behaviour a shorter one shows as well: they are left to `python -m pytest -m soak`."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the faults and the GPU to `make test-all`, but for what is quick."""
    for item in items:
        if item.name.startswith(MINUTES):
            item.add_marker("soak")
        if item.path.parent.name in ("faults", "gpu") and not item.get_closest_marker("quick"):
            item.add_marker("thorough")


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


class Undrawn:
    """Stands in for a figure."""

    def savefig(self, file: Path, **_: object) -> None:
        file.touch()


@pytest.fixture
def drawn() -> None:
    """Let a test of a module that uses `undrawn` have its figures and models."""


@pytest.fixture
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Record runs with empty figures and models: to make them takes longer than all else that a short run does."""
    if "drawn" in request.fixturenames:
        return
    for figure in ("learning_curves", "confusion_matrix", "hardest_images", "sweep_losses", "sweep_weights"):
        monkeypatch.setattr(f"harness.plots.{figure}", lambda *_: Undrawn())
    monkeypatch.setattr("harness.plots.study", lambda *_: {})
    monkeypatch.setattr("harness.tracking.runs.write_model", _write_nothing)


def _write_nothing(folder: Path, *_: object) -> None:
    folder.mkdir()
    (folder / "MLmodel").touch()


def is_alive(pid: int) -> bool:
    """Whether a process is there and runs; one that was killed may remain until its parent reads its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
