"""Records with their graph are counted again on arrival; a run of protocol 1 counts if its training is the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_runs import edit, finished, remarks_of

from harness import cli, runs
from harness.errors import UsageError
from harness.journal import Journal, all_journals, archive
from harness.leaderboard import rank

MARK = "tiny: by Ann; seeds 0 to 1: carried over from protocol 1: graph, count and start are equal"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the journals of two runs of tiny.py."""
    from conftest import TINY

    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("harness.tracking.tracker.Tracker.enqueue", lambda *_: None)
        Path("tiny.py").write_text(TINY)
        arguments = ["tiny.py", "--dataset", "digits", "--seeds", "2", "--device", "cpu", "--author", "Ann"]
        assert cli.main(["run", *arguments]) == 0
    return folder


@pytest.fixture
def journals(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Journal]:
    """Stand in a folder with copies of these runs."""
    shutil.copytree(trained / "mlruns" / "journal", tmp_path / "here" / "mlruns" / "journal")
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "there").mkdir()
    return all_journals()


@pytest.fixture
def older(journals: list[Journal]) -> list[Journal]:
    """Make these runs look as protocol 1 left them."""
    for journal in journals:
        change_job(journal, protocol=1, network="")
        (journal.folder / "network.json").unlink()
    return journals


def change_job(journal: Journal, **changes: Any) -> None:
    record = journal.read()
    assert record
    edit(journal, "started", job={**record.started["job"], **changes})


def sent(journals: list[Journal]) -> Path:
    place = Path("runs.zip").absolute()
    archive.export([(journal, 0) for journal in journals], place)
    return place


def reasons(journals: list[Journal]) -> list[str]:
    return [reason for _, reason in runs.carry_over(journals)]


class TestArrival:
    def test_graph_travels_and_gives_the_same_row(
        self, journals: list[Journal], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (before,), place = rank(journals).rows, sent(journals)
        monkeypatch.chdir("../there")
        assert not any(run.refused for run in archive.import_runs(place))
        (after,) = rank(all_journals()).rows
        assert (after.id, after.scores) == (before.id, before.scores)
        assert [there.submission for there in all_journals()] == [here.submission for here in journals]
        assert remarks_of(rank(all_journals())) == ["tiny: by Ann"]

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda journal: (journal.folder / "network.json").unlink(), "its graph is missing"),
            (lambda journal: change_job(journal, network="0" * 64), "the hash differs"),
            (lambda journal: edit_text(journal, '"aten.', '"aten.none_'), "its graph is refused"),
            (lambda journal: (journal.folder / "network.json").write_text("[" * 9_000), "its graph is refused"),
            (lambda journal: say(journal, 500), "its ledger says 500 numbers, its graph has 598"),
            (lambda journal: say(journal, 598), "its ledger lists other tensors than its graph has"),
        ],
    )
    def test_record_that_is_not_of_its_graph_is_refused(
        self,
        journals: list[Journal],
        change: Callable[[Journal], object],
        reason: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        change(journals[0])
        place = sent(journals[:1])
        monkeypatch.chdir("../there")
        (arrival,) = archive.import_runs(place)
        assert reason in arrival.refused
        assert not all_journals()

    def test_record_without_graph_is_marked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        for seed in range(3):
            finished("net", seed)
        assert remarks_of(rank(all_journals()))[0].startswith("net: seeds 0 to 2: no graph is stored with the record")


def edit_text(journal: Journal, old: str, new: str) -> None:
    file = journal.folder / "network.json"
    file.write_text(file.read_text().replace(old, new))


def say(journal: Journal, numbers: int) -> None:
    entry = {"layer": "a", "name": "weight", "kind": "parameter", "shape": [1], "numbers": numbers, "counted": True}
    edit(journal, "started", parameters=numbers, ledger=[entry])


class TestCarryOver:
    def test_run_with_equal_training_counts_again(self, older: list[Journal]) -> None:
        assert reasons(older) == ["", ""]
        board = rank(older)
        assert remarks_of(board) == [MARK]
        assert not board.left_out
        assert not runs.runs_to_carry()

    def test_carried_run_travels_with_its_mark(self, older: list[Journal], monkeypatch: pytest.MonkeyPatch) -> None:
        assert reasons(older) == ["", ""]
        (before,), place = rank(older).rows, sent(older)
        monkeypatch.chdir("../there")
        assert not any(run.refused for run in archive.import_runs(place))
        (after,) = rank(all_journals()).rows
        assert after.id == before.id
        assert after.first.start.carried == before.first.start.carried

    def test_older_run_is_kept_on_arrival_and_does_not_count(
        self, older: list[Journal], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place = sent(older)
        monkeypatch.chdir("../there")
        assert not any(run.refused for run in archive.import_runs(place))
        assert len(runs.runs_to_carry()) == 2
        with pytest.raises(UsageError, match="no finished run"):
            rank(all_journals())

    def test_run_with_another_count_is_left(self, older: list[Journal]) -> None:
        say(older[0], 599)
        assert reasons(older) == ["its ledger says 599 numbers, its graph has 598", ""]
        assert [entry.reason for entry in rank(older).left_out] == ["protocol 1; the rules are now 2"]

    def test_run_with_another_start_is_left(self, older: list[Journal], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("harness.submission.digest_of_build", lambda *_: "another")
        assert all("the replayed start differs" in reason for reason in reasons(older))

    @pytest.mark.parametrize(
        "change", [{"network": "x"}, {"from": 0}, {"protocol": 3}, {"time": "now"}, {"network": None}]
    )
    def test_damaged_note_is_refused(self, older: list[Journal], change: dict[str, Any]) -> None:
        assert reasons(older) == ["", ""]
        file = older[0].folder / "carried.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
        (left,) = rank(older).left_out
        assert "damaged" in left.reason or "not an integer" in left.reason

    def test_doctor_offers_and_carries_over(
        self, older: list[Journal], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("harness.doctor._store", lambda: iter(()))
        cli.main(["doctor"])
        assert "2 runs were trained under an older protocol" in capsys.readouterr().out
        assert len(runs.runs_to_carry()) == 2
        cli.main(["doctor", "--yes"])
        assert "2 carried over" in capsys.readouterr().out
        assert not runs.runs_to_carry()
