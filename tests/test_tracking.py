"""MLflow shows what the journal says: all of it, once, with its own times."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow.pytorch
import numpy as np
import preloaded
import pytest
import torch
from conftest import TINY
from fake_runs import finished
from mlflow import MlflowClient
from mlflow.entities import Run
from test_tuning import DirectWorkers

from harness import cli, runs, tracking
from harness.backprop import WEIGHTS, Problem
from harness.backprop.network import descend
from harness.errors import TrackerError
from harness.events import Checkpoint, Epoch
from harness.journal import Journal, Record, all_journals
from harness.spec import RECIPE_FIELDS, Job
from harness.tracking import SWEEPS, Tracker, sync, tracking_uri
from harness.tracking.client import Client
from harness.tracking.tracker import sync_source

pytestmark = pytest.mark.usefixtures("undrawn")

COUNTING = '''"""A linear layer, over an image drawn for each seed that is not saved with the network."""
import torch
from torch import nn

RECIPE = {"batch_size": 64, "epochs": 1}


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(784, 10)
        self.register_buffer("drawn", torch.rand(784), persistent=False)

    def forward(self, images):
        return self.head(images.flatten(1) - self.drawn)


def build():
    return Network()
'''


def run(*arguments: str) -> int:
    return cli.main(["run", "tiny.py", "--dataset", "digits", *arguments])


def runs_in_store(experiment: str = "digits") -> list[Run]:
    client = MlflowClient(tracking_uri())
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id], order_by=["attributes.start_time"])) if found else []


def only_record() -> Record:
    (journal,) = all_journals()
    record = journal.read()
    assert record is not None
    return record


def history(run: Run) -> dict[str, list[tuple[int, int, float]]]:
    client = MlflowClient(tracking_uri())

    def points(key: str) -> list[tuple[int, int, float]]:
        return [(point.step, point.timestamp, point.value) for point in client.get_metric_history(run.info.run_id, key)]

    return {key: points(key) for key in run.data.metrics}


def files(run: Run) -> set[str]:
    client, found, todo = MlflowClient(tracking_uri()), set(), [""]
    while todo:
        for entry in client.list_artifacts(run.info.run_id, todo.pop()):
            todo.append(entry.path) if entry.is_dir else found.add(entry.path)
    return found


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def another(workplace: Path, empty_store: Path) -> str:
    """Return the address of a second store, in which there is nothing yet."""
    shutil.copy(empty_store, workplace / "another.db")
    return f"sqlite:///{workplace / 'another.db'}"


@pytest.fixture
def trained(workplace: Path) -> Run:
    """Return a run without figures and model, to work on."""
    assert run("--set", "width=5") == 0
    (found,) = runs_in_store()
    return found


@pytest.fixture(scope="module")
def place_of_whole(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    place = tmp_path_factory.mktemp("whole")
    (place / "mlruns").mkdir()
    shutil.copy(empty_store, place / "mlruns" / "mlflow.db")
    (place / "tiny.py").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        assert run("--set", "width=5") == 0
    return place


@pytest.fixture
def whole(place_of_whole: Path, drawn: None, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a run with all that is recorded of one, which tests look at and leave as it is."""
    monkeypatch.chdir(place_of_whole)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (found,) = runs_in_store()
    return found


def test_run_shows_its_name_settings_and_verdict(whole: Run) -> None:
    record = only_record()
    assert whole.info.run_name == "tiny width=5 seed 0"
    assert whole.info.status == "FINISHED"
    assert whole.data.params["width"] == "5"
    assert whole.data.params["lr"] == "0.1"
    assert whole.data.params["seed"] == "0"
    assert whole.data.params["parameters"] == "310"
    assert whole.data.params["device"] == record.start.device
    assert set(RECIPE_FIELDS) <= set(whole.data.params)
    assert whole.data.tags["source_sha256"] == record.job.sha256
    assert whole.data.tags["protocol"] == "2"
    assert whole.data.tags["verdict"] == "all 2 targets met"


def test_metrics_match_the_journal(whole: Run) -> None:
    record = only_record()
    seen = history(whole)
    for name, metric in (("train_loss", "train/loss"), ("held_out_accuracy", "test/accuracy"), ("lr", "lr")):
        assert seen[metric] == [(epoch["number"], epoch["time"], epoch[name]) for epoch in record.epochs]
    assert record.ended is not None
    assert (
        whole.data.metrics["test/final_accuracy"] == record.ended["accuracy"] == record.epochs[-1]["held_out_accuracy"]
    )
    assert whole.data.metrics["test/best_accuracy"] == max(epoch["held_out_accuracy"] for epoch in record.epochs)
    assert (whole.info.start_time, whole.info.end_time) == (record.started["time"], record.ended["time"])


def test_note_has_verdict_curve_and_layers(whole: Run) -> None:
    page = whole.data.tags["mlflow.note.content"]
    for words in ("after the last epoch", "picked on the test set", "| 2 |", "BatchNorm1d", "310 parameters"):
        assert words in page


def test_dataset_is_logged_with_digest(whole: Run) -> None:
    (used,) = whole.inputs.dataset_inputs
    assert used.dataset.name == "digits"
    assert only_record().job.dataset_digest.startswith(used.dataset.digest)
    assert json.loads(used.dataset.source)["sha256"] == only_record().job.dataset_digest


def test_artifacts_are_complete_and_under_mlruns(whole: Run) -> None:
    assert {
        "tiny.py",
        "ledger.json",
        "journal.jsonl",
        "test.npz",
        "figures/learning_curves.png",
        "figures/confusion.png",
        "figures/most_confidently_wrong.png",
        "model/MLmodel",
        "model/input_example.json",
    } <= files(whole)
    assert whole.info.artifact_uri.startswith(Path("mlruns/artifacts/digits").absolute().as_uri())


def test_logged_model_reproduces_scored_answers(whole: Run) -> None:
    from harness import data
    from harness.training import predict

    (journal,) = all_journals()
    model = mlflow.pytorch.load_model(f"{whole.info.artifact_uri}/model")
    digits = data.load("digits")
    answers = predict(model, digits, digits.held_out).numpy()
    assert np.allclose(answers, journal.logits(), atol=1e-5)
    assert model(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


def test_unsaved_buffers_are_logged_with_model(drawn: None, workplace: Path) -> None:
    from harness import data
    from harness.training import predict

    Path("counting.py").write_text(COUNTING)
    assert cli.main(["run", "counting.py", "--dataset", "digits"]) == 0
    (journal,), (found,) = all_journals(), runs_in_store()
    model = mlflow.pytorch.load_model(f"{found.info.artifact_uri}/model")
    digits = data.load("digits")
    assert np.allclose(predict(model, digits, digits.held_out).numpy(), journal.logits(), atol=1e-5)


def test_repeated_sync_changes_nothing(whole: Run) -> None:
    before, seen = whole.to_dictionary(), history(whole)
    sync(all_journals())
    (after,) = runs_in_store()
    assert after.to_dictionary() == before
    assert history(after) == seen


def test_lost_store_is_rebuilt_from_journals(trained: Run, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = history(trained)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workplace / 'another.db'}")
    assert cli.main(["sync"]) == 0
    (again,) = runs_in_store()
    assert history(again) == seen
    assert again.data.params == trained.data.params
    assert (again.info.status, again.info.end_time) == ("FINISHED", trained.info.end_time)


def test_deleted_experiment_is_restored(trained: Run) -> None:
    MlflowClient(tracking_uri()).delete_experiment(trained.info.experiment_id)
    assert run("--seed", "1") == 0
    assert sorted(shown.info.run_name for shown in runs_in_store()) == ["tiny seed 1", "tiny width=5 seed 0"]


def test_partial_journal_is_completed_later(trained: Run, workplace: Path) -> None:
    (journal,) = all_journals()
    lines = journal.events_file.read_text().splitlines(keepends=True)
    half = Journal(journal.folder.parent / "half")
    half.folder.mkdir()
    for file in ("architecture.py", "test.npz", "weights.pt"):
        (half.folder / file).write_bytes((journal.folder / file).read_bytes())
    half.events_file.write_text("".join(lines[:2]))
    store = Client(tracking_uri())
    sync_source(store, half)
    begun = next(run for run in runs_in_store() if run.data.tags["harness.run_id"] == "half")
    assert begun.info.status == "RUNNING"
    half.events_file.write_text("".join(lines))
    sync_source(store, half)
    ended = next(run for run in runs_in_store() if run.data.tags["harness.run_id"] == "half")
    assert ended.info.run_id == begun.info.run_id
    assert ended.info.status == "FINISHED"
    assert history(ended) == history(trained)


def test_seeds_share_a_parent_with_statistics(workplace: Path) -> None:
    assert run("--seeds", "3") == 0
    found = runs_in_store()
    parent = next(run for run in found if run.info.run_name == "tiny 3 seeds")
    children = [run for run in found if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    scores = [child.data.metrics["test/final_accuracy"] for child in children]
    assert len(found) == 4
    assert sorted(child.info.run_name for child in children) == ["tiny seed 0", "tiny seed 1", "tiny seed 2"]
    assert parent.data.metrics["n"] == 3
    assert parent.data.metrics["test/final_accuracy"] == pytest.approx(np.mean(scores))
    assert parent.data.metrics["test/final_accuracy_std"] == pytest.approx(np.std(scores, ddof=1))
    assert parent.data.metrics["test/final_accuracy_low95"] < np.mean(scores)
    assert parent.info.status == "FINISHED"
    assert "seed" not in parent.data.params


@pytest.mark.parametrize("state", ["interrupted", "diverged", "out of memory", "failed"])
def test_unfinished_run_shows_state_and_reason(workplace: Path, state: str) -> None:
    assert run() == 0
    (journal,) = all_journals()
    lines = journal.events_file.read_text().splitlines(keepends=True)
    cut = Journal(journal.folder.parent / "cut")
    cut.folder.mkdir()
    (cut.folder / "architecture.py").write_text(journal.source)
    cut.events_file.write_text("".join(lines[:2]))
    cut.append("failed", state=state, reason="a reason")
    sync_source(Client(tracking_uri()), cut)
    shown = next(run for run in runs_in_store() if run.data.tags["harness.run_id"] == "cut")
    assert shown.info.status == {"interrupted": "KILLED"}.get(state, "FAILED")
    assert shown.data.tags["verdict"] == state
    assert shown.data.tags["reason"] == "a reason"
    assert "test/final_accuracy" not in shown.data.metrics


def test_resumed_run_is_running_then_finished(workplace: Path) -> None:
    assert run() == 0
    (journal,) = all_journals()
    lines = journal.events_file.read_text().splitlines(keepends=True)
    resumed = Journal(journal.folder.parent / "resumed")
    shutil.copytree(journal.folder, resumed.folder)
    resumed.events_file.write_text("".join(lines[:2]))
    resumed.append("failed", state="interrupted", reason="a reason")
    sync_source(Client(tracking_uri()), resumed)

    def shown() -> Run:
        return next(run for run in runs_in_store() if run.data.tags["harness.run_id"] == "resumed")

    assert shown().info.status == "KILLED"
    resumed.append("resumed", epoch=1)
    sync_source(Client(tracking_uri()), resumed)
    assert shown().info.status == "RUNNING"
    with open(resumed.events_file, "a") as file:
        file.writelines(lines[2:])
    sync_source(Client(tracking_uri()), resumed)
    assert shown().info.status == "FINISHED"
    assert shown().data.tags["verdict"] != "interrupted"
    assert "reason" not in shown().data.tags
    history = MlflowClient(tracking_uri()).get_metric_history(shown().info.run_id, "train/loss")
    assert [metric.step for metric in history] == [1, 2]


def test_unreachable_server_exits_7_and_loses_nothing(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert run() == 7
    assert only_record().state == "finished"
    printed = capsys.readouterr()
    assert "score" in printed.out
    assert "safe" in printed.err
    assert "sync" in printed.err
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert cli.main(["sync"]) == 0
    assert [shown.info.status for shown in runs_in_store()] == ["FINISHED"]


def test_recording_draws_no_random_numbers(
    drawn: None, workplace: Path, another: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run() == 0
    monkeypatch.setenv("MLFLOW_TRACKING_URI", another)
    Client(tracking_uri())  # before we look into it ourselves
    states = [torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()]  # type: ignore[index, union-attr]
    tracker = Tracker()
    tracker.enqueue(all_journals()[0])
    deadline = time.monotonic() + 60
    while not (found := runs_in_store()) or "harness.complete" not in found[0].data.tags:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert runs_in_store()[0].info.status == "FINISHED"  # asked again: mlflow reads a run's status before its tags
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])  # type: ignore[index]
    assert states[2] == random.getstate()
    assert not any(file.startswith("model/") for file in files(found[0]))
    tracker.close()
    assert "model/MLmodel" in files(found[0])


def test_concurrent_first_opens_succeed(tmp_path: Path) -> None:
    code = f"from harness.tracking.client import Client; Client('sqlite:///{tmp_path / 'runs' / 'mlflow.db'}')"
    started = [preloaded.shared().start(["-c", code], tmp_path, os.environ) for _ in range(3)]
    assert [(process.communicate()[0], process.wait()) for process in started] == [("", 0)] * 3
    assert {file.name for file in (tmp_path / "runs").iterdir()} == {"mlflow.db", "mlflow.lock"}


def test_interrupted_first_open_leaves_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copy", interrupt)
        with pytest.raises(KeyboardInterrupt):
            Client(uri)
    assert not (tmp_path / "mlflow.db").exists()
    assert Client(uri).experiments() == {}


def test_damaged_store_is_named_and_rebuilt(
    trained: Run, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    database = workplace / "damaged.db"
    database.write_bytes(b"no database" * 1_000)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    assert cli.main(["sync"]) == 7
    printed = capsys.readouterr().err
    assert f"Move {database} away" in printed
    assert len(printed.splitlines()) <= 3
    database.rename(workplace / "moved_away.db")
    assert cli.main(["sync"]) == 0
    assert [again.info.run_name for again in runs_in_store()] == [trained.info.run_name]


def test_copied_folder_never_writes_to_the_original(
    trained: Run, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = workplace / "copy"
    shutil.copytree(workplace / "mlruns", copy / "mlruns")
    (copy / "tiny.py").write_text((workplace / "tiny.py").read_text())
    before = sorted((workplace / "mlruns" / "artifacts").rglob("*"))
    monkeypatch.chdir(copy)
    assert run("--seed", "1") == 7
    assert "was moved or copied here" in capsys.readouterr().err
    assert sorted((workplace / "mlruns" / "artifacts").rglob("*")) == before


def test_note_edited_by_user_is_kept(trained: Run) -> None:
    MlflowClient(tracking_uri()).set_tag(trained.info.run_id, "mlflow.note.content", "my own words")
    assert cli.main(["sync"]) == 0
    assert runs_in_store()[0].data.tags["mlflow.note.content"] == "my own words"


@pytest.mark.parametrize("damage", ['{"event": "failed", "state": "failed", "time": 0}\n', "{}\n", "no JSON\n{}\n"])
def test_damaged_journal_does_not_stop_sync(
    trained: Run,
    workplace: Path,
    another: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: str,
) -> None:
    for name in ("00000000-000000-first", "quoted-'-name"):
        (folder := workplace / "mlruns" / "journal" / name).mkdir()
        (folder / "events.jsonl").write_text(damage)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", another)
    assert cli.main(["sync"]) == 7
    printed = capsys.readouterr().err
    assert "2 of 3 records" in printed
    assert "00000000-000000-first, quoted-'-name" in printed
    assert [again.info.run_name for again in runs_in_store()] == [trained.info.run_name]


@pytest.mark.parametrize(
    "uri", ["sqlite://", "sqlite:///:memory:", "sqlite://?x=1", "sqlite:///file:z?mode=memory&uri=true"]
)
def test_in_memory_store_is_refused_before_training(workplace: Path, monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert run() == 2
    assert not all_journals()


def test_password_is_not_printed(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:sec@ret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert [cli.main([command]) for command in ("ui", "sync")] == [7, 7]
    assert cli.main(["backprop", "--steps", "1"]) == 7
    printed = "".join(capsys.readouterr())
    assert "http://***@127.0.0.1:9" in printed
    assert "ret@" not in printed


def test_recovered_store_is_no_failure(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, failures = sync_source, iter([OSError("gone"), OSError("gone")])

    def fail_at_first(store: Client, source: Journal) -> None:
        if (error := next(failures, None)) is not None:
            raise error
        project(store, source)

    monkeypatch.setattr("harness.tracking.tracker.sync_source", fail_at_first)
    assert run() == 0
    assert [shown.info.status for shown in runs_in_store()] == ["FINISHED"]


def test_store_without_a_table_is_named(
    trained: Run, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    database = workplace / "broken.db"
    shutil.copy(workplace / "mlruns" / "mlflow.db", database)
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("DROP TABLE runs")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    assert cli.main(["sync"]) == 7
    assert f"Move {database} away" in capsys.readouterr().err


class TestWithoutMlflow:
    @pytest.fixture(autouse=True)
    def missing(self, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Let mlflow be missing until the test installs it."""
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "mlflow", None)
            self.install = patch.undo
            yield

    def errors_printed(self, capsys: pytest.CaptureFixture[str]) -> list[str]:
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return [line for line in (printed.out + printed.err).splitlines() if "not installed" in line]

    @pytest.mark.parametrize("seeds", ["1", "3"])
    def test_runs_end_with_one_error_and_sync_later(self, seeds: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("--seeds", seeds) == 7
        assert self.errors_printed(capsys) == ["error: MLflow cannot be used: mlflow is not installed here."]
        assert [journal.read().state for journal in all_journals()] == ["finished"] * int(seeds)  # type: ignore[union-attr]
        self.install()
        assert cli.main(["sync"]) == 0
        assert {shown.info.status for shown in runs_in_store()} == {"FINISHED"}

    def test_error_names_results_folder_and_next_step(
        self, workplace: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run() == 7
        said = capsys.readouterr().err
        assert f"Every result is safe in {workplace / 'mlruns'}." in said
        assert "pip install mlflow, or copy journal/ and studies/ from there" in said
        assert "then run python -m harness sync" in said

    @pytest.mark.parametrize("command", ["sync", "sync --pull", "ui", "backprop"])
    def test_mlflow_commands_end_with_the_same_error(self, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(command.split()) == 7
        assert self.errors_printed(capsys) == ["error: MLflow cannot be used: mlflow is not installed here."]

    def test_study_is_synced_on_another_machine(
        self, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        study = (
            '"""A rate."""\nARCHITECTURE = "tiny.py"\n\n\ndef suggest(trial):\n    return {"lr": 0.1 + trial.number}\n'
        )
        (workplace / "study.py").write_text(study)
        monkeypatch.setattr("harness.cli.tune.Processes", DirectWorkers)
        arguments = ["tune", "study.py", "--dataset", "digits", "--trials", "2", "--epochs", "1", "--jobs", "2"]
        assert cli.main(arguments) == 7
        assert self.errors_printed(capsys) == ["error: MLflow cannot be used: mlflow is not installed here."]
        assert run() == 7
        self.install()
        for folder in ("journal", "studies"):
            shutil.copytree(workplace / "mlruns" / folder, workplace / "another" / "mlruns" / folder)
        monkeypatch.chdir(workplace / "another")
        assert cli.main(["sync"]) == 0
        assert [shown.info.status for shown in runs_in_store()] == ["FINISHED"]
        assert len(runs_in_store("tune/digits/study")) == 3


def test_missing_plotting_package_is_named_once(
    drawn: None, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "seaborn", None)
        for command in (run, lambda: cli.main(["sync"])):
            assert command() == 7
            printed = capsys.readouterr()
            assert (printed.out + printed.err).count("seaborn is not installed here") == 1
            assert "pip install seaborn" in printed.err
    assert cli.main(["sync"]) == 0


def test_idle_tracker_opens_no_store(tmp_path: Path) -> None:
    tracker = Tracker(f"sqlite:///{tmp_path / 'never.db'}")
    tracker.close()
    assert not (tmp_path / "never.db").exists()


class SlowThread:
    """Takes a step for the tracker while it is waited for, so many times; then it stands still, or has ended."""

    def __init__(self, tracker: Tracker, steps: int, ends: bool) -> None:
        self.tracker, self.left, self.ends = tracker, steps, ends

    def join(self, timeout: float) -> None:
        self.tracker._steps += self.left > 0
        self.left -= 1

    def is_alive(self) -> bool:
        return self.left > 0 or not self.ends


def test_close_waits_while_store_makes_progress(tmp_path: Path) -> None:
    tracker = Tracker(f"sqlite:///{tmp_path / 'never.db'}")
    tracker._thread = SlowThread(tracker, steps=20, ends=True)  # type: ignore[assignment]
    tracker.close()
    tracker._thread = SlowThread(tracker, steps=20, ends=False)  # type: ignore[assignment]
    with pytest.raises(TrackerError, match="does not answer"):
        tracker.close()
    assert tracker._steps == 40


class TestSweep:
    def test_sweep_has_a_child_per_learning_rate(self, workplace: Path) -> None:
        assert cli.main(["backprop", "--lr", "0.5,2.0", "--steps", "100"]) == 0
        found = runs_in_store(SWEEPS)
        parent = next(run for run in found if "mlflow.parentRunId" not in run.data.tags)
        children = {run.info.run_name: run for run in found if run is not parent}
        assert set(children) == {"lr 0.5", "lr 2"}
        assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {parent.info.run_id}
        assert {run.info.status for run in found} == {"FINISHED"}
        assert parent.data.metrics["fastest_stable_lr"] == 2.0
        assert parent.data.metrics["final_loss/lr_0.5"] == descend(Problem(), 0.5, 100).final_loss
        assert files(parent) == {"loss.png", "weights.png", "steps.csv"}
        for words in ("dE/dw5", "chain rule", "every step subtracts it"):
            assert words in parent.data.tags["mlflow.note.content"]

    def test_every_quantity_is_logged_at_every_step(self, workplace: Path) -> None:
        assert cli.main(["backprop", "--lr", "0.5", "--steps", "100"]) == 0
        child = next(run for run in runs_in_store(SWEEPS) if run.info.run_name == "lr 0.5")
        seen = history(child)
        rows = descend(Problem(), 0.5, 100).rows
        assert set(seen) == {"E_total", "E1", "E2", "a_o1", "a_o2", *WEIGHTS}
        for name, points in seen.items():
            assert [(step, value) for step, _, value in points] == [(n, row[name]) for n, row in enumerate(rows)]

    def test_repeated_sweep_is_the_same_run(self, workplace: Path) -> None:
        for steps in ("5", "5", "6"):
            assert cli.main(["backprop", "--lr", "0.5", "--steps", steps]) == 0
        parents = [run.info.run_name for run in runs_in_store(SWEEPS) if "mlflow.parentRunId" not in run.data.tags]
        assert parents == ["targets 0.01, 0.99, 1 rates, 5 steps", "targets 0.01, 0.99, 1 rates, 6 steps"]

    def test_every_rate_has_its_own_name(self, workplace: Path) -> None:
        assert cli.main(["backprop", "--lr", "1e-7,1000000,1000000.1,1e20", "--steps", "2"]) == 0
        names = {run.info.run_name for run in runs_in_store(SWEEPS) if "mlflow.parentRunId" in run.data.tags}
        assert names == {"lr 1e-07", "lr 1000000", "lr 1000000.1", "lr 1e20"}

    def test_interrupted_sweep_is_recorded_again(self, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, "set_terminated", interrupt)
            assert cli.main(["backprop", "--lr", "0.5,1", "--steps", "3"]) == 130
        assert {run.info.status for run in runs_in_store(SWEEPS)} == {"RUNNING"}
        assert cli.main(["backprop", "--lr", "0.5,1", "--steps", "3"]) == 0
        assert sorted((run.info.run_name, run.info.status) for run in runs_in_store(SWEEPS)) == [
            ("lr 0.5", "FINISHED"),
            ("lr 1", "FINISHED"),
            ("targets 0.01, 0.99, 2 rates, 3 steps", "FINISHED"),
        ]

    def test_unreachable_server_exits_7_after_printing(
        self, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        assert cli.main(["backprop", "--lr", "2.0"]) == 7
        printed = capsys.readouterr()
        assert "0.005160109" in printed.out
        assert "run the same command again" in printed.err


def test_stopped_group_ends_with_its_last_child(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[int] = []

    def stop_in_the_second(job: Job, *how: Any, **more: Any) -> Iterator[runs.Event | Checkpoint | None]:
        for event in train(job, *how, **more):
            yield event
            if job.seed == 1 and isinstance(event, Epoch):
                raise KeyboardInterrupt
        trained.append(job.seed)

    train = runs.train
    monkeypatch.setattr(sys.modules["harness.runs.record"], "train", stop_in_the_second)
    # Other work may keep MLflow waiting.
    monkeypatch.setattr("harness.tracking.tracker.HASTE_SECONDS", tracking.tracker.PATIENCE_SECONDS)
    assert run("--seeds", "3") == 130
    assert trained == [0]
    assert {run.info.run_name: run.info.status for run in runs_in_store()} == {
        "tiny 3 seeds": "KILLED",
        "tiny seed 0": "FINISHED",
        "tiny seed 1": "KILLED",
    }

    monkeypatch.setattr(sys.modules["harness.runs.record"], "train", train)
    assert run("--seeds", "3") == 0  # resumes in the same group
    assert {run.info.run_name: run.info.status for run in runs_in_store()} == {
        "tiny 3 seeds": "FINISHED",
        "tiny seed 0": "FINISHED",
        "tiny seed 1": "FINISHED",
        "tiny seed 2": "FINISHED",
    }


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (1, 2, 0)], ids=lambda order: "".join(map(str, order)))
def test_restarted_seed_counts_once_in_its_group(workplace: Path, order: tuple[int, ...]) -> None:
    group = {"started": {"group": {"id": "g", "size": 2}}}
    lost = finished(seed=0, dataset="digits", end="interrupted", **group)
    anew, other = (finished(seed=seed, dataset="digits", **group) for seed in (0, 1))
    store = Client(tracking_uri())
    for place in order:
        sync_source(store, (lost, anew, other)[place])
    (parent,) = (run for run in runs_in_store() if "seeds" in run.info.run_name)
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["n"] == 2
    assert parent.data.tags["verdict"] == "2 of 2 seeds finished"


def test_added_seeds_form_their_own_group(workplace: Path) -> None:
    assert run("--seeds", "2") == 0
    assert run("--seeds", "4") == 0
    parents = {run.info.run_name: run.info.status for run in runs_in_store() if "seeds" in run.info.run_name}
    assert parents == {"tiny 2 seeds": "FINISHED"}
    by_parent = Counter(run.data.tags.get("mlflow.parentRunId", "") for run in runs_in_store())
    assert sorted(by_parent.values()) == [2, 2, 2]  # two parents, and two seeds under each


def test_pull_imports_shared_runs_once(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workplace / 'mlruns' / 'mlflow.db'}")
    assert cli.main(["run", "tiny.py", "--dataset", "digits", "--seeds", "2"]) == 0
    sent = {journal.run_id: journal.outcome().answers.tobytes() for journal in all_journals()}
    (workplace / "colleague").mkdir()
    monkeypatch.chdir(workplace / "colleague")
    capsys.readouterr()
    assert cli.main(["sync", "--pull"]) == 0
    assert "2 runs imported from sqlite" in capsys.readouterr().err
    home = all_journals()
    assert {journal.run_id: journal.outcome().answers.tobytes() for journal in home} == sent
    for journal in home:
        record = journal.read()
        assert record
        assert record.origin
        assert record.origin.trials is None
    assert cli.main(["sync", "--pull"]) == 0
    assert "0 runs imported" in capsys.readouterr().err
    assert len(runs_in_store()) == 3  # two seeds and their parent: nothing was doubled on the way back


def test_pull_renames_a_run_whose_id_is_taken(
    trained: Run, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workplace / 'mlruns' / 'mlflow.db'}")
    (there,) = all_journals()
    (workplace / "colleague").mkdir()
    monkeypatch.chdir(workplace / "colleague")
    own = finished(seed=5, dataset="digits")
    own.folder.rename(own.folder.with_name(there.run_id))
    assert cli.main(["sync", "--pull"]) == 0
    assert "1 run imported" in capsys.readouterr().err
    assert {len(journal.run_id) - len(there.run_id) for journal in all_journals()} == {0, 7}


def test_pull_refuses_and_names_invalid_runs(
    trained: Run, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workplace / 'mlruns' / 'mlflow.db'}")
    (artifact,) = (workplace / "mlruns" / "artifacts").rglob("journal.jsonl")
    artifact.write_text(artifact.read_text().replace('"accuracy": 0.', '"accuracy": 0.9'))
    (workplace / "colleague").mkdir()
    monkeypatch.chdir(workplace / "colleague")
    assert cli.main(["sync", "--pull"]) == 5
    assert "refused: " in capsys.readouterr().err
    assert not all_journals()
