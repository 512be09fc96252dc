"""Runs that travel: they arrive as they left, an edited one is refused, and nothing in them is ever executed."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_runs import REFERENCE_RUNS, answers_with, edit, finished

from harness import cli, data
from harness.errors import DataError, UsageError
from harness.journal import Imported, Journal, Origin, all_journals, archive
from harness.leaderboard import rank
from harness.spec import BUDGET

DIGITS = data.load("digits").held_out.labels.numpy()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in one empty folder, with another to travel to."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "there"


def on_digits(seed: int = 0, **changes: Any) -> Journal:
    return finished("net", seed, 6, dataset="digits", labels=DIGITS, **changes)


def sent(*journals: Journal, trials: int | None = 0) -> Path:
    place = Path("runs.zip").absolute()
    archive.export([(journal, trials) for journal in journals], place)
    return place


def repacked(place: Path, change: Callable[[dict[str, bytes], dict[str, Any]], None], rehash: bool = True) -> Path:
    """Edit an exported file as a user would who knows its format."""
    with zipfile.ZipFile(place) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(files.pop("manifest.json"))
    change(files, manifest)
    if rehash:
        manifest["sha256"] = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    with zipfile.ZipFile(place, "w") as archive:
        for name, content in {"manifest.json": json.dumps(manifest).encode(), **files}.items():
            archive.writestr(name, content)
    return place


class TestRoundTrip:
    def test_imported_runs_equal_exported_and_are_marked(
        self, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        journals = [on_digits(seed) for seed in range(3)]
        place, before = sent(*journals, trials=50), rank(all_journals()).rows
        monkeypatch.chdir(elsewhere)
        assert archive.import_runs(place) == [Imported(journal.run_id) for journal in journals]
        (row,) = rank(all_journals()).rows
        assert (row.scores, row.name, row.id) == (before[0].scores, before[0].name, before[0].id)
        assert np.array_equal(row.correct, before[0].correct)
        assert (row.imported, row.trials) == (3, 50)
        assert row.first.origin == Origin(str(place), 50)

    def test_export_is_reproducible(self) -> None:
        journals = [on_digits(seed) for seed in range(2)]
        first = sent(*journals).read_bytes()
        assert sent(*journals).read_bytes() == first

    def test_existing_runs_are_skipped(self) -> None:
        journal = on_digits()
        place = sent(journal)
        assert archive.import_runs(place) == [Imported(journal.run_id, is_new=False)]

    def test_taken_id_is_renamed_and_recognised_again(self) -> None:
        journal = on_digits()
        place = sent(journal)
        edit(journal, "epoch", lr=0.5)
        (renamed,) = archive.import_runs(place)
        assert renamed.is_new
        assert not renamed.refused
        assert renamed.run_id.startswith(f"{journal.run_id}-")
        assert archive.import_runs(place) == [Imported(renamed.run_id, is_new=False)]
        assert len(all_journals()) == 2

    def test_longest_id_is_renamed_within_the_limit(self) -> None:
        journal = on_digits()
        long = journal.folder.with_name("x" * archive.LONGEST)
        journal.folder.rename(long)
        place = sent(Journal(long))
        edit(Journal(long), "epoch", lr=0.5)
        (renamed,) = archive.import_runs(place)
        assert len(renamed.run_id) == archive.LONGEST
        assert archive.import_runs(place) == [Imported(renamed.run_id, is_new=False)]

    def test_same_events_with_other_predictions_are_another_run(self) -> None:
        journal = on_digits()
        place = sent(journal)
        other = on_digits(answers=answers_with(np.arange(len(DIGITS)) < 6, DIGITS))
        shutil.copy(other.folder / "test.npz", journal.folder)
        (renamed,) = archive.import_runs(place)
        assert renamed.is_new
        assert renamed.run_id != journal.run_id

    def test_refused_run_does_not_affect_others(self, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        bad, good = on_digits(0), on_digits(1)
        edit(bad, "started", parameters=1)
        place = sent(bad, good)
        monkeypatch.chdir(elsewhere)
        assert [bool(arrival.refused) for arrival in archive.import_runs(place)] == [True, False]
        assert [journal.run_id for journal in all_journals()] == [good.run_id]
        assert {file.name for file in Path("mlruns").iterdir()} == {"journal"}

    def test_imported_plug_in_is_never_executed(self, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Neither by the board, nor by its page, nor on the way to MLflow."""
        trap = workplace / "trap"
        journal = on_digits()
        source = f"open({str(trap)!r}, 'w')\n" + journal.source
        journal.store(source)
        record = journal.read()
        assert record
        edit(journal, "started", job={**record.started["job"], "sha256": hashlib.sha256(source.encode()).hexdigest()})
        place = sent(journal)
        shutil.rmtree(journal.folder)
        assert cli.main(["leaderboard", "--import", str(place), "--html", "board.html"]) == 0
        assert cli.main(["sync"]) == 0
        assert len(all_journals()) == 1
        assert not trap.exists()


EDITS: list[tuple[str, str, dict[str, Any]]] = [
    ("its score is not that of its last epoch", "finished", {"accuracy": 0.999}),
    ("its score does not follow from its predictions", "finished", {"class_accuracy": [1.0] * 10}),
    ("its score is not that of its last epoch", "epoch", {"held_out_accuracy": 0.999}),
    ("an accuracy of its journal is above 1", "epoch", {"held_out_accuracy": 7.5}),
    ("a number of its journal is negative or not finite", "finished", {"seconds": float("nan")}),
    ("a number of its journal is not an integer", "started", {"time": "yesterday"}),
    ("its best epoch does not match its curve", "finished", {"best_accuracy": 1.0}),
    ("its epochs to the target", "finished", {"epochs_to_target": 1}),
    ("its ledger adds up to 5,000 parameters, not to 4,000", "started", {"parameters": 4_000}),
    ("its epochs do not match its recipe", "epoch", {"number": 1}),
    ("a number of its journal is negative or not finite", "finished", {"seconds": -1.0}),
    ("a number of its journal is negative or not finite", "finished", {"wall_seconds": float("inf")}),
    ("a number of its journal is negative or not finite", "epoch", {"wall_seconds": "long"}),
    ("cannot be printed", "started", {"environment": {"device": "a\x1b[2Jb"}}),
    ("damaged", "started", {"ledger": None}),
    ("not finished", "finished", {"event": "nothing"}),
    ("damaged", "started", {"anatomy": {}}),
]


@pytest.mark.parametrize(("reason", "event", "changes"), EDITS, ids=lambda value: str(value)[:40])
def test_edited_journal_is_refused(
    reason: str, event: str, changes: dict[str, Any], elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = on_digits()
    edit(journal, event, **changes)
    place = sent(journal)
    monkeypatch.chdir(elsewhere)
    (arrival,) = archive.import_runs(place)
    assert reason in arrival.refused
    assert not all_journals()


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("protocol 0; the rules are now", {"protocol": 0}),
        ("the SHA-256 differs", {"sha256": "0" * 64}),
        ("its dataset is unknown here", {"dataset": "letters"}),
        ("its dataset is unknown here", {"dataset_digest": "0" * 64}),
        ("its dataset is unknown here", {"held_out": "validation"}),
        ("lr must be float", {"recipe": {"lr": "fast"}}),
        ("it is over the budget", {"recipe": {"epochs": BUDGET.epochs + 1}}),
        ("its dataset does not match its benchmark flag", {"dataset": "mnist", "dataset_digest": data.digest("mnist")}),
        ("a number of its journal is not an integer", {"seed": "zero"}),
        ("its knobs are not plain values", {"knobs": {"width": None}}),
        ("its name is not a valid file name", {"name": "../../evil"}),
        ("cannot be printed", {"path": "a\x1b[2J.py"}),
        ("damaged", {"default_knobs": 7}),
    ],
)
def test_inconsistent_job_is_refused(
    reason: str, changes: dict[str, Any], elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = on_digits()
    record = journal.read()
    assert record
    recipe = {**record.started["job"]["recipe"], **changes.pop("recipe", {})}
    edit(journal, "started", job={**record.started["job"], "recipe": recipe, **changes})
    place = sent(journal)
    monkeypatch.chdir(elsewhere)
    (arrival,) = archive.import_runs(place)
    assert reason in arrival.refused


def test_long_name_is_exported_and_imported(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = finished("a_rather_long_architecture_name_of_mine_" * 2, 0, 6, dataset="digits", labels=DIGITS)
    place = sent(journal)
    monkeypatch.chdir(elsewhere)
    assert archive.import_runs(place) == [Imported(journal.run_id)]


def test_labels_of_another_test_set_are_refused(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = sent(finished("net", 0, 6, dataset="digits", labels=DIGITS[::-1].copy()))
    monkeypatch.chdir(elsewhere)
    assert archive.import_runs(place)[0].refused == "its labels are not those of digits"


def test_network_over_budget_is_refused(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = sent(on_digits(parameters=BUDGET.parameters + 1))
    monkeypatch.chdir(elsewhere)
    (arrival,) = archive.import_runs(place)
    assert arrival.refused == "it is over the budget"


def two_reference_runs(change: Callable[[dict[str, Any]], None]) -> Path:
    """Return a file of two networks' runs; `change` edits the first one's graphs."""

    def keep_two(files: dict[str, bytes], manifest: dict[str, Any]) -> None:
        first, *_, last = manifest["trials"]
        for name in [name for name in files if name.split("/")[0] not in (first, last)]:
            del files[name]
        manifest["trials"] = {first: 0, last: 0}
        document = json.loads(files[f"{first}/network.json"])
        change(document)
        files[f"{first}/network.json"] = json.dumps(document).encode()

    return repacked(Path(shutil.copy(REFERENCE_RUNS, "two.zip")).absolute(), keep_two)


class TestForgedNetwork:
    """One that harms what counts its numbers: that is a confined process, and the other runs arrive."""

    def test_operator_that_would_crash_is_a_reason(self, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def divide_by_zero(document: dict[str, Any]) -> None:
            for mode in ("train", "evaluation"):
                document["graphs"][mode].insert(-1, ["call", "aten.remainder.int", [-1, 0], {}])
                document["shown"][mode].append([0, []])

        place = two_reference_runs(divide_by_zero)
        monkeypatch.chdir(elsewhere)
        bad, good = archive.import_runs(place)
        assert "its graph is refused" in bad.refused
        assert "aten.remainder.int" in bad.refused
        assert not good.refused

    def test_hang_is_a_reason(self, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        place = two_reference_runs(lambda document: document.update(unknown="a document that was not counted before"))
        monkeypatch.chdir(elsewhere)
        monkeypatch.setattr("harness.submission.recount.SECONDS", 0.001)
        assert "the process that counts its numbers did not end within 0.001 s" in archive.import_runs(place)[0].refused


class TestFile:
    def test_changed_byte_is_detected(self, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def change(files: dict[str, bytes], _: dict[str, Any]) -> None:
            name = next(name for name in files if name.endswith("architecture.py"))
            files[name] += b"# more\n"

        place = repacked(sent(on_digits()), change, rehash=False)
        monkeypatch.chdir(elsewhere)
        assert "is not what was exported" in archive.import_runs(place)[0].refused

    @pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "..", ".hidden", "a/b", ""])
    def test_path_traversal_is_refused(self, name: str, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def change(files: dict[str, bytes], manifest: dict[str, Any]) -> None:
            (run_id,) = manifest["trials"]
            manifest["trials"] = {name: 0}
            for file in list(files):
                files[file.replace(run_id, name)] = files.pop(file)

        place = repacked(sent(on_digits()), change)
        monkeypatch.chdir(elsewhere)
        assert archive.import_runs(place)[0].refused == "its name is not a valid run id"
        assert not list(elsewhere.iterdir())

    def test_pickled_answers_are_refused(self, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        journal = on_digits()
        outcome = journal.outcome()
        with open(journal.folder / "test.npz", "wb") as file:
            np.savez(file, **{**vars(outcome), "answers": np.array([{}], dtype=object)})
        files = {f"{journal.run_id}/{file.name}": file.read_bytes() for file in journal.folder.iterdir()}

        def change(packed: dict[str, bytes], manifest: dict[str, Any]) -> None:
            packed.update(files)
            manifest["trials"][journal.run_id] = 0

        place = repacked(sent(on_digits(1)), change)
        monkeypatch.chdir(elsewhere)
        good, bad = archive.import_runs(place)
        assert not good.refused
        assert "predictions cannot be read" in bad.refused

    @pytest.mark.parametrize("size", [0, 100, -30])
    def test_truncated_file_is_refused(self, size: int) -> None:
        place = sent(on_digits())
        place.write_bytes(place.read_bytes()[:size])
        with pytest.raises(DataError, match="damaged"):
            archive.import_runs(place)

    def test_unknown_format_suggests_update(self) -> None:
        place = repacked(sent(on_digits()), lambda _, manifest: manifest.update(format=archive.FORMAT + 1))
        with pytest.raises(DataError, match="reads format") as raised:
            archive.import_runs(place)
        assert "Update" in raised.value.hint

    @pytest.mark.parametrize(
        "content", [b"", b"{}", b"[]", b'{"format": 1}', b'{"format": 1, "sha256": 0, "trials": 0}']
    )
    def test_foreign_zip_is_refused(self, content: bytes) -> None:
        with zipfile.ZipFile("other.zip", "w") as packed:
            packed.writestr("manifest.json", content)
        with pytest.raises(DataError, match="damaged, or is not an export"):
            archive.import_runs(Path("other.zip"))

    def test_oversized_entry_is_refused(self, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        place = sent(on_digits())
        monkeypatch.chdir(elsewhere)
        monkeypatch.setattr(archive, "LARGEST", 1_000)
        (arrival,) = archive.import_runs(place)
        assert "would unpack to more than" in arrival.refused

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    @pytest.mark.parametrize("names", [["x0", "x1"], ["logits"] * 2, ["logits"], ["answers"]])
    def test_arrays_that_would_fill_the_memory_are_refused(
        self, names: list[str], elsewhere: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        journal = on_digits()
        with zipfile.ZipFile(journal.folder / "test.npz", "a", zipfile.ZIP_DEFLATED) as packed:
            for name in names:
                packed.writestr(f"{name}.npy", bytes(archive.LARGEST))
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(elsewhere)
            arrival = archive.receive(journal.run_id, journal.folder, "a server")
        assert "other arrays" in arrival.refused or "would unpack to more" in arrival.refused

    def test_missing_and_unwritable_files_are_refused(self) -> None:
        with pytest.raises(UsageError, match="There is no file"):
            archive.import_runs(Path("nothing.zip"))
        with pytest.raises(UsageError, match="cannot be written"):
            archive.export([(on_digits(), 0)], Path("no/such/folder/runs.zip"))
        with pytest.raises(UsageError, match="no finished run to export"):
            archive.export([], Path("runs.zip"))
