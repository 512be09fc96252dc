"""A study whose process is killed says so at the next start, in MLflow too, and leaves no process behind."""

from __future__ import annotations

import time
from pathlib import Path

from mlflow import MlflowClient
from processes import descendants, harness, kill, until

from harness import tuning
from harness.tracking import tracking_uri

STUDY = '''"""The learning rate of a linear layer."""
ARCHITECTURE = "tiny.py"


def suggest(trial):
    return {"lr": trial.suggest_float("lr", 1e-3, 1.0, log=True)}
'''


def statuses() -> dict[str, str]:
    client = MlflowClient(tracking_uri())
    found = client.get_experiment_by_name("tune/digits/study")
    assert found
    return {run.info.run_name: run.info.status for run in client.search_runs([found.experiment_id])}


def test_killed_study_is_marked_and_leaves_no_process(workplace: Path) -> None:
    (workplace / "study.py").write_text(STUDY)
    options = ("--dataset", "digits", "--epochs", "1", "--jobs", "1", "--trials")
    process = harness(workplace, "tune", "study.py", *options, "200")
    until(process, "complete", 11)  # the first batch is reported, the second has begun
    deadline = time.monotonic() + 60
    while statuses() == {}:
        assert time.monotonic() < deadline
    assert len(descendants(process.pid)) >= 2
    kill(process)
    assert [record.state for record in tuning.records()] == ["stopped"]
    other = STUDY.replace("learning rate", "rate")
    (workplace / "other.py").write_text(other)
    assert harness(workplace, "tune", "other.py", *options, "1").wait() == 0
    shown = statuses()
    assert shown["study seed 0"] == "KILLED"
    assert "RUNNING" not in shown.values()
