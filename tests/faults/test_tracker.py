"""An MLflow server that is down, dies, hangs or fails: training continues, nothing is lost, nothing is doubled."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import TINY
from mlflow import MlflowClient
from mlflow.entities import Run
from preloaded import shared
from processes import Silent

from harness import cli, data, plugins, runs
from harness.events import Epoch
from harness.journal import Journal, Record, all_journals
from harness.spec import Job
from harness.tracking import Tracker, tracking_uri
from harness.tracking.client import Client
from harness.tracking.runs import add_model
from harness.tracking.tracker import sync_source

pytestmark = pytest.mark.usefixtures("undrawn")

METRICS = {"train_loss": "train/loss", "train_accuracy": "train/accuracy", "held_out_loss": "test/loss", "lr": "lr"}


class Server:
    """A real MLflow server on a port and a database of its own, which can be killed and started again."""

    def __init__(self, folder: Path, store: Path) -> None:
        self._folder = folder
        self._store = store
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self._port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self._store}"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        log = open(self._folder / "server.log", "ab")  # noqa: SIM115  the process's own
        self._process = subprocess.Popen(
            command, env={**os.environ, **quiet}, stdout=log, stderr=log, start_new_session=True
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._port)) == 0:
                    return
            time.sleep(0.1)
        raise AssertionError((self._folder / "server.log").read_text())

    def kill(self) -> None:
        if self._process:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture
def server(
    workplace: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "mlflow.db").write_bytes(empty_store.read_bytes())
    server = Server(folder, folder / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    yield server
    server.kill()


def job(epochs: int) -> Job:
    architecture = plugins.from_source(TINY, "tiny.py")
    knobs, recipe = plugins.apply_settings(architecture, {"epochs": epochs})
    return runs.jobs(architecture, knobs, recipe, data.load("digits"), range(1), "cpu")[0]


def only() -> tuple[Journal, Record]:
    (journal,) = all_journals()
    record = journal.read()
    assert record
    return journal, record


def runs_in_store() -> list[Run]:
    client = MlflowClient(tracking_uri())
    found = client.get_experiment_by_name("digits")
    return list(client.search_runs([found.experiment_id])) if found else []


def assert_mlflow_matches_journal() -> None:
    _, record = only()
    (run,) = runs_in_store()
    client = MlflowClient(tracking_uri())
    assert record.ended
    assert run.info.status == "FINISHED"
    assert (run.info.start_time, run.info.end_time) == (record.started["time"], record.ended["time"])
    for name, metric in METRICS.items():
        told = [
            (point.step, point.timestamp, point.value) for point in client.get_metric_history(run.info.run_id, metric)
        ]
        assert sorted(told) == [(epoch["number"], epoch["time"], epoch[name]) for epoch in record.epochs]
    assert {"seed", "lr", "width", "parameters", "device"} <= run.data.params.keys()
    assert run.data.metrics["test/final_accuracy"] == record.ended["accuracy"]
    assert len(run.inputs.dataset_inputs) == 1
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"tiny.py", "test.npz", "journal.jsonl", "figures", "model"} <= files


def test_restarted_server_has_every_step_once(server: Server) -> None:
    server.start()
    tracker = Tracker()
    for event in runs.record(job(12), tracker):
        if isinstance(event, Epoch) and event.number == 5:
            deadline = time.monotonic() + 60
            while not runs_in_store():  # the tracker is at work on it
                assert time.monotonic() < deadline
            server.kill()
        if isinstance(event, Epoch) and event.number == 9:
            server.start()
    tracker.close()
    assert_mlflow_matches_journal()


def test_sync_adds_runs_missed_by_the_server(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "tiny.py", "--dataset", "digits"]) == 7
    assert "safe" in capsys.readouterr().err
    server.start()
    for _ in range(2):
        assert cli.main(["sync"]) == 0
        assert_mlflow_matches_journal()


class Failing:
    """A server that answers whatever it is asked with 500."""

    def __init__(self) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_error(500)

            do_POST = do_PUT = do_GET  # noqa: N815  http.server's own names

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.uri = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()


@pytest.mark.parametrize("kind", [Silent, Failing])
def test_failing_server_exits_7_and_loses_nothing(
    kind: type[Silent | Failing], workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("harness.tracking.tracker.PATIENCE_SECONDS", 2)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with contextlib.closing(kind()) as broken:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", broken.uri)
        assert cli.main(["run", "tiny.py", "--dataset", "digits"]) == 7
    said = capsys.readouterr()
    assert "score" in said.out
    assert "Every result is safe" in said.err
    assert "Traceback" not in said.err
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert cli.main(["sync"]) == 0
    assert_mlflow_matches_journal()


def test_database_locked_during_training_loses_nothing(workplace: Path) -> None:
    tracker = Tracker()
    with contextlib.closing(sqlite3.connect("mlruns/mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for event in runs.record(job(12), tracker):
            if isinstance(event, Epoch) and event.number == 12:
                other.execute("COMMIT")
    tracker.close()
    assert_mlflow_matches_journal()


def test_locked_database_exits_7_and_loses_nothing(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("harness.tracking.tracker.PATIENCE_SECONDS", 2)
    with contextlib.closing(sqlite3.connect("mlruns/mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert cli.main(["run", "tiny.py", "--dataset", "digits"]) == 7
    assert "Every result is safe" in capsys.readouterr().err
    assert cli.main(["sync"]) == 0
    assert_mlflow_matches_journal()


def test_sync_adds_artifacts_that_failed_before(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workplace / "mlruns" / "artifacts").write_text("a file where a folder should be")
    assert cli.main(["run", "tiny.py", "--dataset", "digits"]) == 7
    assert "Every result is safe" in capsys.readouterr().err
    (workplace / "mlruns" / "artifacts").unlink()
    assert cli.main(["sync"]) == 0
    assert_mlflow_matches_journal()


def test_params_lost_in_a_crash_are_sent_later(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.main(["run", "tiny.py", "--dataset", "digits"]) == 0
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workplace / 'another.db'}")
    store = Client(tracking_uri())
    journal, _ = only()
    asked = store._client.log_batch

    def dies(*_: object, **__: object) -> None:
        raise ConnectionError("gone")

    store._client.log_batch = dies
    with pytest.raises(ConnectionError):
        sync_source(store, journal)
    store._client.log_batch = asked
    sync_source(store, journal)
    add_model(store, journal)
    assert_mlflow_matches_journal()


def test_concurrent_syncs_create_a_run_once(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.main(["run", "tiny.py", "--dataset", "digits"]) == 0
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{workplace / 'another.db'}"}
    at_once = [shared().start(["-m", "harness", "sync"], workplace, environment) for _ in range(3)]
    assert [process.wait() for process in at_once] == [0, 0, 0]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", environment["MLFLOW_TRACKING_URI"])
    assert_mlflow_matches_journal()
