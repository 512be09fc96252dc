"""The doctor finds and names every fault and fixes what it can when the user agrees; it deletes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import fake_runs
import pytest
from mlflow import MlflowClient
from preloaded import shared
from test_tuning import FakeWorkers, cached, finish, search

from harness import cli, data, tracking, tuning
from harness.cli import tune as tune_command
from harness.doctor import Finding, examine
from harness.errors import DataError, TrackerError
from harness.journal import Begun, Journal, all_journals, begun
from harness.tracking import tracking_uri
from harness.tracking.client import Client

pytestmark = pytest.mark.usefixtures("undrawn")


def wrong() -> list[tuple[str, int]]:
    return [(finding.subject, finding.exit_code) for finding in examine() if finding.exit_code]


def about(subject: str) -> list[Finding]:
    return [finding for finding in examine() if finding.subject == subject]


def doctor(*arguments: str) -> int:
    return cli.main(["doctor", *arguments])


def finished() -> Journal:
    """Make up a run, without weights, as made-up ones fit no network."""
    journal = fake_runs.finished("good", 0)
    (journal.folder / "weights.pt").unlink(missing_ok=True)
    return journal


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def syncs_in_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process in which doctor syncs have everything imported."""

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        process = shared().start(command[1:], Path.cwd(), os.environ)
        said, _ = process.communicate()
        return subprocess.CompletedProcess(command, process.wait(), said)

    monkeypatch.setattr("harness.doctor.subprocess", SimpleNamespace(run=run, DEVNULL=subprocess.DEVNULL))


@pytest.fixture(autouse=True)
def no_mnist(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("data")
    monkeypatch.setenv("HARNESS_DATA", str(place))
    return place


def test_empty_folder_is_healthy_and_untouched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert doctor() == 0
    assert [*tmp_path.iterdir()] == []
    said = capsys.readouterr().out
    for words in (
        "thread",
        "GiB free",
        "would be downloaded",
        "no run yet",
        "no study yet",
        "no store yet",
        "no problems left",
    ):
        assert words in said


def test_intact_runs_are_counted(workplace: Path) -> None:
    finished()
    assert cli.main(["sync"]) == 0
    assert wrong() == []
    assert [finding.said for finding in about("journal")] == ["1 finished"]


def test_damaged_plan_is_named_and_moved_away(workplace: Path) -> None:
    folder = workplace / "mlruns" / "plans"
    folder.mkdir()
    (folder / "0123.json").write_text("{}")
    assert ("plan", DataError.exit_code) in wrong()
    assert doctor("--yes") == 0
    assert not [*folder.iterdir()]
    assert [file.read_text() for file in (workplace / "mlruns" / "damaged").iterdir()] == ["{}"]


def test_damaged_verification_is_named_and_moved_away(workplace: Path) -> None:
    folder = workplace / "mlruns" / "verifications"
    folder.mkdir()
    (folder / "0123.json").write_text('{"format": 1}')
    assert ("verified", DataError.exit_code) in wrong()
    assert str(folder / "0123.json") in about("verified")[0].said
    assert doctor("--yes") == 0
    assert not [*folder.iterdir()]
    assert [file.read_text() for file in (workplace / "mlruns" / "damaged").iterdir()] == ['{"format": 1}']


def test_damaged_data_file_is_named_and_moved_away(no_mnist: Path, workplace: Path) -> None:
    file = no_mnist / "MNIST" / "raw" / next(iter(data.IDX_DATASETS["mnist"].sha256))
    file.parent.mkdir(parents=True)
    file.write_bytes(b"something else")
    assert wrong() == [("mnist", DataError.exit_code)]
    assert str(file) in about("mnist")[0].said
    assert doctor("--yes") == 0
    assert not file.exists()
    assert [moved.read_bytes() for moved in (workplace / "mlruns" / "damaged").iterdir()] == [b"something else"]


@pytest.mark.parametrize("text", ["no json\n", '{"event": "started"}\n{"event": "finished"}\n', "[]\n"])
def test_only_the_damaged_journal_is_moved_away(workplace: Path, text: str) -> None:
    finished()
    bad = Journal(workplace / "mlruns" / "journal" / "bad")
    bad.folder.mkdir()
    bad.events_file.write_text(text)
    cli.main(["sync"])
    before = listing(bad.folder)
    assert ("journal", DataError.exit_code) in wrong()
    assert doctor("--yes") == 0
    assert [journal.run_id for journal in all_journals()] != ["bad"]
    assert len(all_journals()) == 1
    (moved,) = (workplace / "mlruns" / "damaged").iterdir()
    assert listing(moved) == before


def test_changed_answers_mark_run_damaged(workplace: Path) -> None:
    journal = finished()
    (journal.folder / "test.npz").write_bytes(b"")
    assert ("journal", DataError.exit_code) in wrong()


def test_gone_run_and_broken_register_are_said_and_left(workplace: Path) -> None:
    for seed in range(3):
        begun.begin(Begun(f"run-{seed}", "row", "net", "mnist", seed, 1))
    assert [finding.said for finding in about("register")] == [
        "3 begun runs",
        "begun and gone: run-0, run-1, run-2; the board lists those that no equal run of their row replaces",
    ]
    file = begun.register_file()
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    edited = file.read_bytes()
    assert ("register", DataError.exit_code) in wrong()
    assert doctor("--yes") == DataError.exit_code
    assert file.read_bytes() == edited


def test_dead_run_is_marked_interrupted(workplace: Path) -> None:
    journal = Journal.create("net-s0")
    journal.append("started", job={}, environment={"host": os.uname().nodename, "pid": 1})
    assert "had died" in about("journal")[0].said
    record = journal.read()
    assert record
    assert record.state == "interrupted"


def test_damaged_study_keeps_trials_before_the_damage(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune_command, "Processes", FakeWorkers)
    (workplace / "study.py").write_text(fake_study())
    before = finish(search(), 6)
    (log,) = tuning.studies_folder().glob("*/study.log")
    lines = log.read_text().splitlines(keepends=True)
    damaged = next(number for number, line in enumerate(lines) if '"number":3' in line)
    log.write_text("".join([*lines[:damaged], "no json\n", *lines[damaged + 1 :]]))
    copy = log.read_bytes()
    assert ("study", DataError.exit_code) in wrong()
    assert doctor("--yes") == 0
    assert [len(record.trials) for record in tuning.records()] == [3]
    assert [moved.read_bytes() for moved in (workplace / "mlruns" / "damaged").iterdir()] == [copy]
    assert cached(finish(search(), 6)) == cached(before)


def fake_study() -> str:
    return (
        '"""Learning rate, dropout and width."""\nARCHITECTURE = "tiny.py"\n\n\ndef suggest(trial):\n'
        '    return {"lr": trial.suggest_float("lr", 1e-3, 1.0, log=True), '
        '"dropout": trial.suggest_float("dropout", 0.0, 0.5), "width": trial.suggest_int("width", 2, 20)}\n'
    )


def names_in_the_store() -> list[str]:
    client = MlflowClient(tracking_uri())
    return [run.info.run_name for run in client.search_runs([e.experiment_id for e in client.search_experiments()])]


def test_outdated_store_is_synced_with_journals(workplace: Path) -> None:
    finished()
    assert wrong() == [("MLflow", TrackerError.exit_code)]
    assert doctor("--yes") == 0
    assert wrong() == []
    assert names_in_the_store() == ["good seed 0"]


@pytest.mark.parametrize("fault", ["damaged", "moved"])
def test_unusable_store_is_moved_away_and_rebuilt(
    workplace: Path, fault: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    finished()
    assert cli.main(["sync"]) == 0
    place = workplace
    if fault == "damaged":
        (workplace / "mlruns" / "mlflow.db").write_bytes(b"no database" * 1000)
    else:
        place = tmp_path_factory.mktemp("copies") / "copy"
        subprocess.run(["cp", "-r", str(workplace), str(place)], check=True)
        monkeypatch.chdir(place)
    assert wrong() == [("MLflow", TrackerError.exit_code)]
    assert doctor("--yes") == 0
    again = shared().start(["-m", "harness", "doctor"], Path.cwd(), os.environ)
    said, _ = again.communicate()
    assert again.wait() == 0, said  # asked in another process: mlflow keeps the old file open in this one
    assert "is up to date" in said
    assert len([*(place / "mlruns" / "damaged").iterdir()]) == 1


def test_unreachable_server_is_reported_and_nothing_moved(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert doctor("--yes") == TrackerError.exit_code
    assert (workplace / "mlruns" / "mlflow.db").exists()


def test_missing_mlflow_leaves_store_untouched(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finished()
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert doctor("--yes") == TrackerError.exit_code
    assert "pip install mlflow" in capsys.readouterr().out
    assert (workplace / "mlruns" / "mlflow.db").exists()


def test_without_yes_nothing_changes(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished()
    Client(tracking_uri())
    before = listing(workplace)
    assert doctor() == TrackerError.exit_code
    assert "--yes" in capsys.readouterr().out
    assert listing(workplace) == before


class Terminal:
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("", TrackerError.exit_code), ("no", TrackerError.exit_code)])
def test_terminal_prompts_before_repair(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    finished()
    monkeypatch.setattr("harness.cli.doctor.sys.stdin", Terminal())
    monkeypatch.setattr("builtins.input", lambda: answer)
    assert doctor() == code
    assert bool(names_in_the_store()) == (answer == "y")


def test_low_disk_space_is_reported(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.doctor.ROOM", 2**60)
    assert wrong()[0] == ("disk", 2)


def test_run_in_training_is_not_missing_in_store(workplace: Path) -> None:
    journal = Journal.create("net-s0")
    with journal.lock():
        journal.append("started", job={"dataset": "digits"}, environment={"host": os.uname().nodename, "pid": 1})
        assert tracking.find_outdated([journal]) == []
