"""Records that cannot be traded: who trained, what was begun, what conflicts, what was taken back."""

from __future__ import annotations

import csv
import io
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
