"""Records that cannot be traded: who trained, what was begun, what conflicts, what was taken back."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from fake_runs import edit, finished

import harness
from harness import cli, data
from harness.errors import DataError, UsageError
from harness.journal import MOST_AUTHOR, Journal, all_journals, verify_run
from harness.leaderboard import Board, rank, remarks, to_csv, to_html, to_markdown
from harness.runs import choose_author
from harness.tracking.runs import tags_of

DIGITS = data.load("digits").held_out.labels.numpy()


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HARNESS_AUTHOR", raising=False)
    return tmp_path


def board() -> Board:
    return rank(all_journals())


class TestAuthor:
    def by(self, author: object, seed: int = 0) -> Journal:
        return finished("net", seed, started={"author": author})

    def test_run_without_author_has_none(self) -> None:
        journal = finished("net", 0)
        assert verify_run(journal).start.author == ""
        assert remarks(board()) == []

    def test_author_stands_on_every_form_of_the_board(self) -> None:
        for seed in range(3):
            self.by("Ada Lovelace", seed)
        found = board()
        assert remarks(found) == ["net: by Ada Lovelace"]
        assert "- net: by Ada Lovelace\n" in to_markdown(found)
        assert "<li>net: by Ada Lovelace</li>" in to_html(found)
        assert next(csv.DictReader(io.StringIO(to_csv(found))))["authors"] == "Ada Lovelace"
        assert tags_of(found.rows[0].first.start, None)["author"] == "Ada Lovelace"

    def test_several_authors_have_their_seeds(self) -> None:
        for seed, author in enumerate(("Ada", "Ada", "Bob", "", "Ada")):
            self.by(author, seed)
        assert remarks(board()) == ["net: by Ada (seeds 0 to 1, 4), Bob (seed 2)"]

    @pytest.mark.parametrize("author", ["a\x1b[2Jb", "two\nlines", "\u202eevil", "a" * (MOST_AUTHOR + 1), 7, ["Ada"]])
    def test_unprintable_or_long_author_does_not_count(self, author: object) -> None:
        with pytest.raises(DataError, match=r"its author is not a name|cannot be printed"):
            verify_run(self.by(author))

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


class TestConflict:
    def test_imported_records_that_differ_do_not_count(self) -> None:
        for seed in range(3):
            from_elsewhere(finished("net", seed, 50))
        early = from_elsewhere(finished("net", 3, 10, started={"time": 1}), "a.zip")
        late = from_elsewhere(finished("net", 3, 70, started={"time": 10**15}), "b.zip")
        found = board()
        said = "conflict: seed 3 from a.zip and b.zip differ, and does not count"
        assert found.rows[0].seeds == [0, 1, 2]
        assert remarks(found) == [f"net: {said}"]
        assert {(entry.run_id, entry.reason) for entry in found.left_out} == {(early.run_id, said), (late.run_id, said)}

    @pytest.mark.parametrize("time", [1, 10**15])
    def test_run_of_this_machine_counts_whatever_the_clock_says(self, time: int) -> None:
        own = finished("net", 0, 60)
        from_elsewhere(finished("net", 0, 10, started={"time": time}))
        found = board()
        assert found.rows[0].scores == [0.994]
        said = f"conflict: seed 0 of this machine and from a.zip differ; {own.run_id} counts"
        assert remarks(found) == [f"net: {said}"]
        assert [entry.reason for entry in found.left_out] == [said]

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
        assert remarks(found) == ["net: by Ada, Bob"]
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
        assert remarks(board()) == ["net: seeds 0 to 9 without 3, 7"]

    def test_best_ten_of_two_hundred_have_no_certificate(self) -> None:
        for seed in (3, 17, 21, 40, 66, 91, 120, 151, 177, 199):
            finished("net", seed, 20)
        found = board()
        assert found.rows[0].looks == {}
        assert remarks(found) == [
            "net: seeds 0 to 199 without 0 to 2, 4 to 16, 18 to 20, 22 to 39, 41 to 65, 67 to 90, 92 to 119, "
            "121 to 150, 152 to 176, 178 to 198; no certificate at 10 seeds without seeds 0 to 2, 4 to 9"
        ]

    def test_seed_in_conflict_withholds_the_certificate(self) -> None:
        for seed in range(10):
            from_elsewhere(finished("net", seed, 20 + seed))
        from_elsewhere(finished("net", 9, 30), "b.zip")
        row = board().rows[0]
        assert (row.n, row.looks, row.withheld) == (9, {}, {10: [9]})
        assert "no certificate at 10 seeds without seed 9" in remarks(board())[0]

    def test_huge_seed_is_listed_at_once(self) -> None:
        finished("net", 2**61)
        assert "without 0 to 2,305,843,009,213,693,951" in remarks(board())[0]
