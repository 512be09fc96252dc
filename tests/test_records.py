"""Records that cannot be traded: who trained, what was begun, what conflicts, what was taken back."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_runs import edit, finished, remarks_of
from matplotlib.figure import Figure
from mlflow import MlflowClient

import harness
from harness import cli, data, plots
from harness.errors import DataError, UsageError
from harness.journal import MOST_AUTHOR, Begun, Journal, Run, all_journals, archive, begun, verify_run
from harness.journal.verifications import Verification, keep
from harness.leaderboard import Board, held_back, lost, notes, rank, row_key, to_csv, to_html, to_markdown
from harness.leaderboard.remarks import _REMARKS, _without_graph
from harness.leaderboard.row import with_one_text
from harness.runs import choose_author
from harness.spec import BUDGET
from harness.tracking import tracking_uri
from harness.tracking.runs import tags_of

DIGITS = data.load("digits").held_out.labels.numpy()


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HARNESS_AUTHOR", raising=False)
    # What boards say of records without graph or verification, as all made-up ones are, is tested elsewhere.
    module = sys.modules["harness.leaderboard.remarks"]  # its package has a function of this name
    monkeypatch.setattr(module, "_REMARKS", tuple(make for make in _REMARKS if make is not _without_graph))
    monkeypatch.setattr(module, "_unverified", lambda *_: ())
    return tmp_path


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the figures of the page empty: drawing takes nearly all the time that a page takes."""
    for name in ("bands", "forest", "hardest_images", "learning_curves", "sizes_and_errors"):
        monkeypatch.setattr(plots, name, lambda *_: Figure((1, 1)))


def board() -> Board:
    return rank(all_journals())


class TestAuthor:
    def by(self, author: object, seed: int = 0) -> Journal:
        return finished("net", seed, started={"author": author})

    def test_run_without_author_has_none(self) -> None:
        journal = finished("net", 0)
        assert verify_run(journal).start.author == ""
        assert remarks_of(board()) == []

    @pytest.mark.usefixtures("without_figures")
    def test_author_stands_on_every_form_of_the_board(self) -> None:
        for seed in range(3):
            self.by("Ada Lovelace", seed)
        found = board()
        assert remarks_of(found) == ["net: by Ada Lovelace"]
        assert "- net\n  - by Ada Lovelace\n" in to_markdown(found)
        assert "<li>net<ul><li>by Ada Lovelace</li></ul></li>" in to_html(found)
        assert next(csv.DictReader(io.StringIO(to_csv(found))))["authors"] == "Ada Lovelace"
        assert tags_of(found.rows[0].first.start, None)["author"] == "Ada Lovelace"

    def test_several_authors_have_their_seeds(self) -> None:
        for seed, author in enumerate(("Ada", "Ada", "Bob", "", "Ada")):
            self.by(author, seed)
        assert remarks_of(board()) == ["net: by Ada (seeds 0 to 1, 4), Bob (seed 2)"]

    def test_semicolons_in_texts_split_nothing(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.by("Ada; PhD")
        self.by("Bob", 1)
        parts = ["by Ada; PhD (seed 0), Bob (seed 1)", "seeds 0 to 1: isolation of the file: none"]
        for journal in all_journals():
            record = journal.read()
            assert record
            edit(journal, "started", job={**record.started["job"], "isolation": "none"})
        found = board()
        (row,) = csv.DictReader(io.StringIO(to_csv(found)))
        assert row["authors"].split("\n") == ["Ada; PhD", "Bob"]
        assert row["remarks"].split("\n") == parts
        assert row["seeds"] == "0;1"
        assert f"- net\n  - {parts[0]}\n  - {parts[1]}\n" in to_markdown(found)
        assert cli.main(["leaderboard"]) == 0
        assert f"net\n  {parts[0]}\n  {parts[1]}\n" in capsys.readouterr().out

    @pytest.mark.parametrize("author", ["a\x1b[2Jb", "two\nlines", "\u202eevil", "a" * (MOST_AUTHOR + 1), 7, ["Ada"]])
    def test_unprintable_or_long_author_does_not_count(self, author: object) -> None:
        with pytest.raises(DataError, match=r"its author is not a name|cannot be printed"):
            verify_run(self.by(author))

    @pytest.mark.usefixtures("without_figures")
    def test_author_brings_no_markup_to_life(self) -> None:
        self.by("<img src=x> [a](http://b)")
        assert "by &lt;img src=x> \\[a](http://b)" in to_markdown(board())
        assert "<img src=x>" not in to_html(board())

    def test_option_precedes_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert choose_author(None) == ""
        monkeypatch.setenv("HARNESS_AUTHOR", " Ada ")
        assert choose_author(None) == "Ada"
        assert choose_author("Bob") == "Bob"
        assert choose_author("") == ""

    @pytest.mark.usefixtures("undrawn")
    def test_commands_and_api_record_the_author(self, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run = ["run", "tiny.py", "--dataset", "digits", "--device", "cpu", "--epochs", "1"]
        assert cli.main([*run, "--author", "x" * 81]) == UsageError.exit_code
        assert not all_journals()
        assert cli.main([*run, "--author", "Ada Lovelace"]) == 0
        monkeypatch.setenv("HARNESS_AUTHOR", "Bob")
        (by_api,) = harness.run("tiny.py", seeds=[1], dataset="digits", settings={"epochs": 1}, device="cpu")
        assert by_api.facts.start.author == "Bob"
        assert rank(all_journals(), "digits").rows[0].authors == {"Ada Lovelace": [0], "Bob": [1]}

    def test_older_record_without_author_is_read(self) -> None:
        journal = self.by("Ada")
        lines = journal.events_file.read_text().replace('"author": "Ada", ', "").replace(', "author": "Ada"', "")
        journal.events_file.write_text(lines)
        assert verify_run(journal).start.author == ""
        edit(journal, "started", author="Bob")
        assert verify_run(journal).start.author == "Bob"


def from_elsewhere(journal: Journal, place: str = "a.zip") -> Journal:
    """Let a run look as if it was imported."""
    (journal.folder / "origin.json").write_text(json.dumps({"from": f"/home/me/{place}", "trials": 0}))
    return journal


HERE = "a made-up device, float32, torch , harness "


class TestConflict:
    def test_imported_records_that_differ_do_not_count(self) -> None:
        for seed in range(3):
            from_elsewhere(finished("net", seed, 50))
        early = from_elsewhere(finished("net", 3, 10, started={"time": 1}), "a.zip")
        late = from_elsewhere(finished("net", 3, 70, started={"time": 10**15}), "b.zip")
        found = board()
        why = f"differ, though all state {HERE}; none counts until it is trained here"
        said = f"conflict: seed 3 from a.zip and b.zip {why}"
        assert found.rows[0].seeds == [0, 1, 2]
        assert remarks_of(found) == [f"net: {said}"]
        assert {(entry.run_id, entry.reason) for entry in found.left_out} == {(early.run_id, said), (late.run_id, said)}

    @pytest.mark.parametrize("time", [1, 10**15])
    def test_run_of_this_machine_counts_whatever_the_clock_says(self, time: int) -> None:
        finished("net", 0, 60)
        from_elsewhere(finished("net", 0, 10, started={"time": time}))
        found = board()
        assert found.rows[0].scores == [0.994]
        said = (
            f"conflict: seed 0 of this machine and from a.zip differ, though all state {HERE}; "
            "what was trained here counts"
        )
        assert remarks_of(found) == [f"net: {said}"]
        assert [entry.reason for entry in found.left_out] == [said]

    def test_seeds_of_other_machines_are_one_remark_with_the_reason(self) -> None:
        finished("net", 2)
        for seed in range(2):
            from_elsewhere(finished("net", seed, 50))
            other = {"device": "a GPU", "threads": 1, "torch": "2", "harness": "1"}
            from_elsewhere(finished("net", seed, 60, started={"environment": other}), "b.zip")
        assert remarks_of(board())[0].endswith(
            "conflict: seeds 0 to 1 from a.zip and b.zip differ, as bits of other machines, modes or versions do "
            f"(a GPU, float32, torch 2, harness 1 and {HERE}); none counts until it is trained here"
        )

    def test_row_that_is_wholly_in_conflict_is_shown_with_what_to_do(self) -> None:
        finished("mine")
        for seed in range(3):
            from_elsewhere(finished("rival", seed, 10, recipe={"lr": 0.2}))
            from_elsewhere(finished("rival", seed, 70, recipe={"lr": 0.2}), "forged.zip")
        assert notes(board())[0] == (
            f"rival is disputed and has no rank: conflict: seeds 0 to 2 from a.zip and forged.zip differ, though all "
            f"state {HERE}; none counts until it is trained here, with: python -m harness run architectures/rival.py "
            "--dataset mnist --set lr=0.2"
        )
        with pytest.raises(UsageError) as refused:
            board().find("rival")
        assert refused.value.hint.startswith("rival is disputed: train it, or verify one of its runs")
        finished("rival", 0, 10, recipe={"lr": 0.2})
        assert not board().disputed
        assert [row.seeds for row in board().rows] == [[0], [0]]

    @pytest.mark.parametrize("origin", ["", "forged.zip"])
    def test_verification_of_this_machine_decides(self, origin: str) -> None:
        finished("mine")
        run = Run.of(from_elsewhere(finished("rival", 0, 50)))
        keep(
            Verification(
                row_key(run.facts.job), "rival", "mnist", "", 0, ((0, run.digest),), (0,), (run.accuracy,),
                "bit for bit", None, "cpu", "2", "0", origin,
            )
        )  # fmt: skip
        forged = from_elsewhere(finished("rival", 0, 10), "forged.zip")
        found = board()
        if origin:
            assert len(found.disputed) == 1
            return
        assert found.find("rival").scores == [run.accuracy]
        assert [entry.run_id for entry in found.left_out] == [forged.run_id]
        assert found.left_out[0].reason.endswith("; the one that was verified here counts")

    def test_two_contradictions_from_one_file_are_named(self) -> None:
        for errors in (50, 60):
            from_elsewhere(finished("net", 0, errors))
        with pytest.raises(UsageError, match="no finished run") as raised:
            board()
        assert "conflict: seed 0 from a.zip and a.zip differ" in raised.value.allowed

    def test_repeated_training_counts_once_with_both_authors(self) -> None:
        from_elsewhere(finished("net", 0, 50, started={"author": "Ada"}))
        from_elsewhere(finished("net", 0, 50, started={"author": "Bob"}), "b.zip")
        found = board()
        assert found.rows[0].seeds == [0]
        assert remarks_of(found) == ["net: by Ada, Bob"]
        assert len(found.left_out) == 1

    def test_copy_with_fewer_trials_hides_none(self) -> None:
        for spent in (0, 50):
            journal = finished("net", 0, 50)
            (journal.folder / "origin.json").write_text(json.dumps({"from": "a.zip", "trials": spent}))
        assert board().rows[0].trials == 50

    def test_copies_under_other_seeds_count_once(self) -> None:
        for seed in range(10):
            from_elsewhere(finished("net", 0, 50, job={"seed": seed}))
        assert board().rows[0].n == 1


class TestHandpickedSeeds:
    def test_missing_seeds_are_listed(self) -> None:
        for seed in (0, 1, 2, 4, 5, 6, 8, 9):
            finished("net", seed, 30)
        assert remarks_of(board()) == ["net: seeds 0 to 9 without 3, 7"]

    def test_shorter_of_both_forms_is_said(self) -> None:
        for seed in (9, 1, 2):
            finished("net", seed)
            assert remarks_of(board()) == [
                f"net: only {'seed 9' if seed == 9 else 'seeds 1, 9' if seed == 1 else 'seeds 1 to 2, 9'}"
            ]

    def test_best_ten_of_two_hundred_have_no_certificate(self) -> None:
        for seed in (3, 17, 21, 40, 66, 91, 120, 151, 177, 199):
            finished("net", seed, 20)
        found = board()
        assert found.rows[0].looks == {}
        assert remarks_of(found) == [
            "net: only seeds 3, 17, 21, 40, 66, 91, 120, 151, 177, 199; "
            "no certificate at 10 seeds without seeds 0 to 2, 4 to 9"
        ]

    def test_seed_in_conflict_withholds_the_certificate(self) -> None:
        for seed in range(10):
            from_elsewhere(finished("net", seed, 20 + seed))
        from_elsewhere(finished("net", 9, 30), "b.zip")
        row = board().rows[0]
        assert (row.n, row.looks, row.withheld) == (9, {}, {10: [9]})
        assert "no certificate at 10 seeds without seed 9" in remarks_of(board())[0]

    def test_huge_seed_is_listed_at_once(self) -> None:
        finished("net", 2**61)
        assert remarks_of(board()) == ["net: only seed 2,305,843,009,213,693,952"]


def trained(name: str = "net", seed: int = 0, errors: int = 60, **changes: Any) -> Journal:
    """Write the journal of a run that the register saw, as `record` does."""
    journal = finished(name, seed, errors, **changes)
    record = journal.read()
    assert record
    start = record.start
    job = start.job
    begun.begin(Begun(journal.run_id, row_key(job), start.title, job.dataset, job.seed, job.protocol))
    if record.state == "finished":
        begun.finish(journal.run_id, Run.of(journal).digest)
    return journal


TODAY = time.strftime("%Y-%m-%d", time.gmtime())


class TestRegister:
    @pytest.mark.usefixtures("undrawn")
    def test_run_is_in_the_register_before_its_first_step(self, workplace: Path) -> None:
        run = harness.run("tiny.py", dataset="digits", settings={"epochs": 1}, device="cpu")[0]
        first, second = (json.loads(line) for line in begun.register_file().read_text().splitlines())
        assert (first["event"], first["run"], first["title"], first["seed"]) == ("begun", run.run_id, "tiny", 0)
        assert (second["event"], second["result"]) == ("finished", run.digest)
        assert first["time"] < second["time"]
        found = rank(all_journals(), "digits")
        assert remarks_of(found) == notes(found) == []
        assert first["row"] == found.rows[0].key

    def test_register_that_is_older_than_all_runs_is_silent(self) -> None:
        trained()
        found = board()
        assert remarks_of(found) == notes(found) == []

    def test_missing_register_is_said(self) -> None:
        finished()
        assert notes(board()) == [
            "there is no register of begun runs here (mlruns/begun.jsonl): runs that were deleted cannot be seen"
        ]

    def test_runs_from_before_the_register_are_named(self) -> None:
        finished("net", 0)
        trained("net", 1)
        assert remarks_of(board()) == ["net: seed 0 is not in the register of begun runs"]

    @pytest.mark.parametrize("harm", ["folder", "events"])
    def test_deleted_journal_leaves_a_gap(self, harm: str) -> None:
        journals = [trained("net", seed, 30 + seed) for seed in range(11)]
        if harm == "folder":
            shutil.rmtree(journals[4].folder)
        else:
            journals[4].events_file.unlink()
        found = board()
        assert found.rows[0].looks == {}
        assert remarks_of(found) == [
            f"net: seeds 0 to 10 without 4; begun and gone: seed 4 ({TODAY}); no certificate at 10 seeds without seed 4"
        ]

    def test_seed_trained_again_with_more_luck_has_no_certificate(self) -> None:
        journals = [trained("net", seed, 30 + seed) for seed in range(10)]
        shutil.rmtree(journals[4].folder)
        trained("net", 4, 10)
        (row,) = board().rows
        assert (row.n, row.looks, row.withheld) == (10, {}, {10: [4]})
        assert f"begun and gone: seed 4 ({TODAY})" in remarks_of(board())[0]

    def test_seed_trained_again_to_the_same_result_is_whole(self) -> None:
        journals = [trained("net", seed, 30 + seed) for seed in range(10)]
        shutil.rmtree(journals[4].folder)
        trained("net", 4, 34)
        assert remarks_of(board()) == []
        assert board().rows[0].looks.keys() == {10}

    def test_equal_result_of_another_network_hides_no_gap(self) -> None:
        shutil.rmtree(trained("net", 0, knobs={"width": 12}).folder)
        trained("net", 0)
        assert notes(board()) == [f"begun and gone: net width=12 seed 0 ({TODAY})"]

    def test_deleted_repetition_of_a_counted_run_is_no_gap(self) -> None:
        trained("net", 0, 60)
        shutil.rmtree(trained("net", 0, 50).folder)
        assert remarks_of(board()) == []

    def test_network_whose_runs_are_all_gone_is_named(self) -> None:
        trained("net")
        for seed in (1, 2, 4):
            shutil.rmtree(trained("lost", seed, knobs={"width": 12}).folder)
        assert notes(board()) == [f"begun and gone: lost width=12 seeds 1 to 2, 4 ({TODAY})"]

    def test_interrupted_run_that_is_there_is_no_gap(self) -> None:
        trained("net", 0)
        trained("net", 1, end="interrupted")
        assert remarks_of(board()) == []

    def test_record_that_was_changed_after_its_end_does_not_count(self) -> None:
        trained("net", 0)
        journal = trained("net", 1)
        edit(journal, "epoch", train_loss=0.01)
        found = board()
        assert [entry.reason for entry in found.left_out] == ["its record is not the one that finished here"]
        assert remarks_of(found) == [f"net: finished, and its record changed or damaged since: seed 1 ({TODAY})"]

    @pytest.mark.parametrize("time", [1, 10**15])
    def test_hand_written_journal_replaces_no_run(self, time: int) -> None:
        real = trained("net", 0, 60)
        finished("net", 0, 1, started={"time": time})
        found = board()
        assert found.rows[0].scores == [0.994]
        assert [entry.reason for entry in found.left_out] == [f"seed 0 again; {real.run_id} counts"]

    def test_hand_written_journal_is_named(self) -> None:
        trained("net", 0)
        finished("net", 1, 1)
        assert remarks_of(board()) == ["net: seed 1 is not in the register of begun runs"]

    @pytest.mark.parametrize(
        ("edited", "line"),
        [
            (lambda lines: [*lines[:2], *lines[4:]], 3),
            (lambda lines: lines[1:], 1),
            (lambda lines: [lines[1], lines[0], *lines[2:]], 1),
            (lambda lines: [lines[0].replace('"seed": 0', '"seed": 5'), *lines[1:]], 1),
            (lambda lines: [*lines[:3], "no JSON", *lines[3:]], 4),
            (lambda lines: [*lines[:3], "[" * 100_000, *lines[3:]], 4),
            (lambda lines: [*lines[:3], '{"event": "finished", "run": "x", "result": "", "chain": ""}', *lines[3:]], 4),
        ],
    )
    def test_edited_register_is_said(self, edited: Callable[[list[str]], list[str]], line: int) -> None:
        for seed in range(3):
            trained("net", seed)
        file = begun.register_file()
        file.write_text("".join(f"{text}\n" for text in edited(file.read_text().splitlines())))
        said = f"(mlruns/begun.jsonl) was changed: line {line} does not follow"
        assert said in notes(board())[0]
        trained("net", 3)
        assert begun.read().broken_at == line

    def test_torn_last_line_is_cut_off(self) -> None:
        trained("net", 0)
        file = begun.register_file()
        whole = file.read_bytes()
        file.write_bytes(whole + b'{"event": "begun", "ru')
        assert begun.read().broken_at == 0
        trained("net", 1)
        assert begun.read().broken_at == 0
        assert len(begun.read().runs) == 2

    @pytest.mark.parametrize("title", ["\x1b[2Jnet", "a\u202eb"])
    def test_text_of_the_register_is_printed_harmlessly(self, title: str) -> None:
        trained("net")
        begun.begin(Begun("gone", "row", title, "mnist", 0, BUDGET.protocol))
        assert notes(board())[0].isprintable()

    def test_concurrent_writers_make_one_chain(self) -> None:
        def write(writer: int) -> None:
            for seed in range(10):
                begun.begin(Begun(f"{writer}-{seed}", "", "", "", seed, 1))

        with ThreadPoolExecutor(4) as pool:
            [*pool.map(write, range(4))]
        register = begun.read()
        assert (len(register.runs), register.broken_at) == (40, 0)


class TestHandover:
    """What an export says of the seeds that it does not hold."""

    def handed_over(self, there: Path) -> Board:
        found = rank(all_journals(), "digits")
        runs = [(run.journal, row.trials) for row in found.rows for run in row.runs]
        archive.export(runs, there / "a.zip", held_back(found), lost=lost(found))
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(there)
            assert not any(arrival.refused for arrival in archive.import_runs(Path("a.zip")))
            return rank(all_journals(), "digits")

    def on_digits(self, seed: int, errors: int = 6, **changes: Any) -> Journal:
        return trained("net", seed, errors, dataset="digits", labels=DIGITS, **changes)

    def test_importer_sees_what_was_not_handed_over(self, tmp_path: Path) -> None:
        journals = [self.on_digits(seed) for seed in range(6)]
        self.on_digits(7, end="diverged")
        shutil.rmtree(journals[4].folder)
        (tmp_path / "there").mkdir()
        found = self.handed_over(tmp_path / "there")
        assert remarks_of(found) == [
            "net: only seeds 0 to 3, 5; begun there but not handed over with a.zip: "
            f"seed 4 (gone: {TODAY}), seed 7 (diverged)"
        ]
        assert notes(found) == []
        assert found.rows[0].unsettled == {4, 7}

    @pytest.mark.parametrize("harm", [{"knobs": 7}, {"seed": "zero"}])
    def test_damaged_journal_stops_no_export(self, harm: dict[str, Any], tmp_path: Path) -> None:
        self.on_digits(0)
        finished("net", 1, 6, dataset="digits", labels=DIGITS, job={"default_knobs": {"width": 8}, **harm})
        (tmp_path / "there").mkdir()
        assert self.handed_over(tmp_path / "there").rows[0].n == 1

    def test_importers_see_networks_that_are_wholly_gone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on_digits(0)
        for seed in (3, 4):
            shutil.rmtree(trained("bad", seed, 6, dataset="digits", labels=DIGITS).folder)
        for here, there in (("", "there"), ("there", "third")):
            (tmp_path / there).mkdir()
            monkeypatch.chdir(tmp_path / here)
            found = self.handed_over(tmp_path / there)
            assert notes(found)[0] == (f"begun there but not handed over with a.zip: bad seeds 3 to 4 (gone: {TODAY})")

    @pytest.mark.parametrize(
        "said", [[7, 3, "gone"], ["bad", -1, "gone"], ["bad", 3, "a\x1b"], ["bad", 3], ["b" * 401, 3, ""]]
    )
    def test_damaged_list_of_lost_networks_is_refused(
        self, said: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        archive.export([(self.on_digits(0), 0)], Path("a.zip"), lost=[said])  # type: ignore[list-item]
        (tmp_path / "there").mkdir()
        monkeypatch.chdir(tmp_path / "there")
        assert archive.import_runs(Path("../a.zip"))[0].refused

    def test_complete_export_leaves_nothing_to_say(self, tmp_path: Path) -> None:
        for seed in range(3):
            self.on_digits(seed)
        (tmp_path / "there").mkdir()
        found = self.handed_over(tmp_path / "there")
        assert remarks_of(found) == notes(found) == []

    def test_own_run_makes_good_what_was_not_handed_over(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        shutil.rmtree(self.on_digits(1).folder)
        self.on_digits(0)
        (tmp_path / "there").mkdir()
        assert self.handed_over(tmp_path / "there").rows[0].unsettled == {1}
        monkeypatch.chdir(tmp_path / "there")
        self.on_digits(1)
        assert rank(all_journals(), "digits").rows[0].unsettled == set()

    def test_file_that_says_nothing_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        archive.export([(self.on_digits(0), 0)], Path("silent.zip"))
        (tmp_path / "there").mkdir()
        monkeypatch.chdir(tmp_path / "there")
        archive.import_runs(Path("../silent.zip"))
        found = rank(all_journals(), "digits")
        assert notes(found) == ["silent.zip does not say which runs were begun where it was made"]
        assert held_back(found) == {}

    @pytest.mark.parametrize("said", [[[1]], [["a", "gone"]], [[-1, "gone"]], [[1, "a\x1b"]], [[1, 2]]])
    def test_damaged_list_is_refused(self, said: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        journal = self.on_digits(0)
        archive.export([(journal, 0)], Path("a.zip"), {journal.run_id: said})
        (tmp_path / "there").mkdir()
        monkeypatch.chdir(tmp_path / "there")
        assert archive.import_runs(Path("../a.zip"))[0].refused


class TestWithdrawal:
    def withdraw(self, run: str, because: str = "the memory of that machine is bad") -> int:
        return cli.main(["leaderboard", "--withdraw", run, "--because", because])

    def test_withdrawn_run_stays_visible_and_does_not_count(self) -> None:
        journals = [trained("net", seed, 30 + seed) for seed in range(10)]
        assert board().rows[0].looks.keys() == {10}
        assert self.withdraw(str(journals[4].folder)) == 0
        found = board()
        assert remarks_of(found) == [
            "net: seeds 0 to 9 without 4; withdrawn: seed 4 (the memory of that machine is bad); "
            "no certificate at 10 seeds without seed 4"
        ]
        assert [(entry.run_id, entry.reason) for entry in found.left_out] == [
            (journals[4].run_id, "withdrawn: the memory of that machine is bad")
        ]

    @pytest.mark.parametrize("errors", [34, 10])
    def test_later_run_of_its_seed_gives_no_certificate(self, errors: int) -> None:
        journals = [trained("net", seed, 30 + seed) for seed in range(10)]
        self.withdraw(journals[4].run_id)
        trained("net", 4, errors)
        (row,) = board().rows
        assert (row.n, row.looks, row.withheld) == (10, {}, {10: [4]})
        assert "withdrawn: seed 4" in remarks_of(board())[0]

    def test_withdrawal_outlives_journal_and_editor(self) -> None:
        trained("net", 0)
        journal = trained("net", 1)
        before = journal.events_file.read_bytes()
        self.withdraw(journal.run_id)
        journal.events_file.write_bytes(before)
        assert [entry.reason for entry in board().left_out] == ["withdrawn: the memory of that machine is bad"]
        shutil.rmtree(journal.folder)
        assert remarks_of(board()) == ["net: withdrawn: seed 1 (the memory of that machine is bad)"]

    def test_withdrawn_repetition_leaves_the_first_run_whole(self) -> None:
        trained("net", 0, 60)
        self.withdraw(trained("net", 0, 50).run_id)
        assert remarks_of(board()) == []

    def test_withdrawn_import_is_recognised_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for seed in range(2):
            finished("net", seed, 6, dataset="digits", labels=DIGITS)
        archive.export([(journal, 0) for journal in all_journals()], Path("a.zip"))
        (tmp_path / "there").mkdir()
        monkeypatch.chdir(tmp_path / "there")
        first, _ = archive.import_runs(Path("../a.zip"))
        self.withdraw(first.run_id)
        assert not any(arrival.is_new for arrival in archive.import_runs(Path("../a.zip")))
        assert rank(all_journals(), "digits").rows[0].n == 1

    @pytest.mark.parametrize("is_own", [True, False])
    @pytest.mark.parametrize("disguise", ["another id", "another loss", "another seed"])
    def test_no_import_brings_it_back(self, is_own: bool, disguise: str) -> None:
        trained("net", 1)
        withdrawn = trained("net", 0, 50) if is_own else from_elsewhere(finished("net", 0, 50))
        self.withdraw(withdrawn.run_id)
        shutil.rmtree(withdrawn.folder)
        seed = {"seed": 7} if disguise == "another seed" else {}
        copy = from_elsewhere(finished("net", 0, 50, job=seed), "b.zip")
        if disguise == "another loss":
            edit(copy, "epoch", train_loss=0.2)
        found = board()
        assert found.rows[0].seeds == [1]
        why = "its seed or result was withdrawn here: the memory of that machine is bad"
        assert [(entry.run_id, entry.reason) for entry in found.left_out] == [(copy.run_id, why)]
        assert "withdrawn: seed 0 (the memory of that machine is bad)" in remarks_of(found)[0]

    def test_training_a_withdrawn_seed_again_here_counts(self) -> None:
        self.withdraw(trained("net", 0, 50).run_id)
        trained("net", 0, 50)
        assert board().rows[0].seeds == [0]

    @pytest.mark.parametrize("because", ["", "  ", "a\nb", "a\x1b[2J", "a" * 121])
    def test_reason_is_one_printable_line(self, because: str) -> None:
        assert self.withdraw(trained().run_id, because) == UsageError.exit_code
        assert board().rows[0].n == 1

    def test_only_a_finished_run_that_is_here_is_withdrawn(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.withdraw("nothing") == UsageError.exit_code
        assert self.withdraw(trained(end="interrupted").run_id) == UsageError.exit_code
        once = trained().run_id
        assert self.withdraw(once) == 0
        capsys.readouterr()
        assert self.withdraw(once, "another reason") == UsageError.exit_code
        assert f"{once} is already withdrawn, because: the memory of that machine is bad" in capsys.readouterr().err

    def test_dataset_of_a_withdrawal_must_be_that_of_the_run(self, capsys: pytest.CaptureFixture[str]) -> None:
        command = ["leaderboard", "--withdraw", trained().run_id, "--because", "a slip", "--dataset"]
        assert cli.main([*command, "digits"]) == UsageError.exit_code
        assert "is a run on mnist, not on digits" in capsys.readouterr().err
        assert cli.main([*command, "mnist"]) == 0

    def test_options_of_a_withdrawal_go_together(self) -> None:
        trained()
        for options in (["--because", "x"], ["--withdraw", "y", "--because", "x", "--csv"]):
            assert cli.main(["leaderboard", *options]) == UsageError.exit_code

    @pytest.mark.usefixtures("undrawn")
    def test_mlflow_is_told(self, workplace: Path) -> None:
        run = harness.run("tiny.py", dataset="digits", settings={"epochs": 1}, device="cpu")[0]
        self.withdraw(run.run_id, "a slip")
        assert cli.main(["sync"]) == 0
        (known,) = MlflowClient(tracking_uri()).search_runs(["1"])
        assert (known.info.status, known.data.tags["verdict"], known.data.tags["reason"]) == (
            "FAILED",
            "withdrawn",
            "a slip",
        )
        again = harness.run("tiny.py", dataset="digits", settings={"epochs": 1}, device="cpu")[0]
        assert again.run_id != run.run_id


class TestNames:
    """Rows that were trained under several names, and texts that build several networks."""

    def test_most_frequent_name_is_the_label(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for seed, name in enumerate(("rare", "often", "often")):
            trained("net", seed, job={"name": name})
        (row,) = board().rows
        assert (row.label, row.architecture, row.names) == ("often", "often", ["often", "rare"])
        assert remarks_of(board()) == ["often: also trained as rare"]
        assert board().find("rare").id == row.id

    def test_first_name_is_the_label_of_a_tie(self) -> None:
        for seed, name in enumerate(("b", "a")):
            trained("net", seed, job={"name": name})
        assert board().rows[0].names == ["b", "a"]

    def test_text_that_builds_several_networks_is_said(self) -> None:
        for seed in range(4):
            trained("net", seed)
        trained("other", 0)
        found = board()
        first, second = (row for row in found.rows)
        halves = [
            replace(first, runs=first.runs[:2], label="net 1"),
            replace(first, runs=first.runs[2:], label="net 2"),
        ]
        assert with_one_text([*halves, second]) == [halves]
        assert notes(replace(found, rows=(*halves, second))) == ["one text, several networks: net 1, net 2"]
        assert notes(found) == []

    def test_same_text_with_other_settings_is_no_second_network(self) -> None:
        trained("net", 0)
        trained("net", 0, knobs={"width": 12})
        assert notes(board()) == []
