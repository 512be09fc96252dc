"""A killed run resumes bit for bit; a run that gets a signal stops cleanly."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from preloaded import Process
from processes import Silent, harness, kill, start, until

from harness.events import Epoch
from harness.journal import Journal, Record, all_journals

TRAINER = str(Path(__file__).with_name("trainer.py"))
RECIPE = ("ema=0.9", "rotation=10", "momentum=0.9", "batch_size=16")
EPOCHS = 19


def trained(place: Path) -> Process:
    return start([TRAINER, "3", str(EPOCHS), *RECIPE], place)


def outcome(place: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Journal, Record]:
    monkeypatch.chdir(place)
    (journal,) = all_journals()
    record = journal.read()
    assert record
    return journal, record


def epochs(record: Record) -> list[dict[str, object]]:
    """Return the epochs without what is read off a clock."""
    clocked = {"time", *Epoch.CLOCKED}
    return [{name: value for name, value in epoch.items() if name not in clocked} for epoch in record.epochs]


def assert_same_run(killed: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (ours, our_record), (theirs, their_record) = outcome(killed, monkeypatch), outcome(whole, monkeypatch)
    assert our_record.state == their_record.state == "finished"
    assert epochs(our_record) == epochs(their_record)
    assert our_record.ended
    assert their_record.ended
    for name in ("accuracy", "class_accuracy", "loss", "best_epoch"):
        assert our_record.ended[name] == their_record.ended[name]
    monkeypatch.chdir(killed)
    weights, logits = ours.weights(), ours.logits()
    monkeypatch.chdir(whole)
    assert weights.keys() == theirs.weights().keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in theirs.weights().items())
    assert np.array_equal(logits, theirs.logits())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an uninterrupted run."""
    place = tmp_path_factory.mktemp("whole")
    process = trained(place)
    until(process, "Result")
    assert process.wait() == 0
    return place


@pytest.mark.quick
@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.soak)])
def test_killed_run_resumes_bit_for_bit(
    kills: int, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = random.Random(kills)
    for _ in range(kills):
        process = trained(tmp_path)
        if kills < 10:  # the others may come at any moment, and few of them after an epoch
            until(process, "Epoch")
        time.sleep(moments.uniform(0, 0.1 if kills < 10 else 6))
        kill(process)
    process = trained(tmp_path)
    if process.stdout:
        process.stdout.read()
    assert process.wait() == 0
    assert_same_run(tmp_path, whole, monkeypatch)


def test_run_killed_while_writing_resumes_bit_for_bit(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = trained(tmp_path)
    until(process, "Epoch", 5)
    kill(process)
    journal, _ = outcome(tmp_path, monkeypatch)
    with open(journal.events_file, "a") as file:
        file.write('{"event": "epo')  # as a kill in the midst of a line leaves it
    newest = max(journal.folder.glob("checkpoint-*.pt"), key=lambda place: int(place.name.split("-")[1]))
    newest.write_bytes(newest.read_bytes()[:-100])
    again = trained(tmp_path)
    assert "Started" in until(again, "Result")
    assert again.wait() == 0
    assert_same_run(tmp_path, whole, monkeypatch)


RUN = ("run", "tiny.py", "--dataset", "digits", "--epochs", "8", "--set", "batch_size=3", "--set", "lr=0.01")


def stopped(process: Process, number: signal.Signals) -> tuple[int, str]:
    """Send a signal to a run after its second epoch; return exit code and what it said."""
    until(process, "epoch  2/8")
    os.kill(process.pid, number)
    said = process.stdout.read() if process.stdout else ""
    return process.wait(), said


def test_sigterm_stops_run_cleanly_and_it_resumes(workplace: Path) -> None:
    code, said = stopped(harness(workplace, *RUN), signal.SIGTERM)
    assert code == 143
    assert "run the same command again to resume" in said
    assert "Traceback" not in said
    assert harness(workplace, "sync").wait() == 0  # beside other work MLflow may take longer than a stop waits for it
    assert statuses() == ["KILLED"]

    again = harness(workplace, *RUN)
    assert "resumes after epoch" in until(again, "epoch  8/8")
    assert "score" in (again.stdout.read() if again.stdout else "")
    assert again.wait() == 0
    assert statuses() == ["FINISHED"]
    (journal,) = all_journals()
    record = journal.read()
    assert record
    assert [epoch["number"] for epoch in record.epochs] == list(range(1, 9))
    assert steps() == list(range(1, 9))


def test_ctrl_c_stops_run_cleanly(workplace: Path) -> None:
    code, said = stopped(harness(workplace, *RUN), signal.SIGINT)
    assert code == 130
    assert "Traceback" not in said
    assert harness(workplace, "sync").wait() == 0  # beside other work MLflow may take longer than a stop waits for it
    assert statuses() == ["KILLED"]


def test_second_ctrl_c_ends_run_immediately(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(Silent()) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        process = harness(workplace, *RUN)
        until(process, "epoch  2/8")
        os.kill(process.pid, signal.SIGINT)
        until(process, "Stopped")
        os.kill(process.pid, signal.SIGINT)
        assert process.stdout
        assert process.stdout.read() == ""  # it would say that MLflow does not answer, had it waited
        assert process.wait() == 130
    (journal,) = all_journals()
    assert journal.checkpoint(8)


def test_next_command_marks_killed_run_interrupted(workplace: Path) -> None:
    process = harness(workplace, *RUN)
    until(process, "epoch  2/8")
    kill(process)
    (journal,) = all_journals()
    record = journal.read()
    assert record
    assert record.state == "running"
    after = harness(workplace, "sync")
    assert after.wait() == 0
    record = journal.read()
    assert record
    assert record.ended
    assert (record.state, record.ended["reason"]) == ("interrupted", "its process died")
    assert harness(workplace, "sync").wait() == 0  # beside other work MLflow may take longer than a stop waits for it
    assert statuses() == ["KILLED"]


def client() -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{Path('mlruns/mlflow.db').absolute()}")


def statuses() -> list[str]:
    experiment = client().get_experiment_by_name("digits")
    assert experiment
    return [run.info.status for run in client().search_runs([experiment.experiment_id])]


def steps() -> list[int]:
    experiment = client().get_experiment_by_name("digits")
    assert experiment
    (run,) = client().search_runs([experiment.experiment_id])
    history = client().get_metric_history(run.info.run_id, "train/loss")
    return sorted(metric.step for metric in history)
