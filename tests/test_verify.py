"""A finished run is believed if every fact holds, and else refused in a few words: never with a traceback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_runs import finished

from harness.errors import DataError
from harness.journal import Journal, verify_outcome, verify_run
from harness.leaderboard import rank, to_csv, to_json, to_markdown

JUNK: tuple[Any, ...] = (None, "", "x", -1, 1e400, float("nan"), [], {}, [[]], 10**30, True)


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    monkeypatch.chdir(tmp_path)
    return finished()


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value inside."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        yield (*path, key)
        yield from places(part, (*path, key))


def verdict_on(journal: Journal, events: list[Any]) -> str:
    """Return why the run is refused; empty if it is believed."""
    journal.events_file.write_text("".join(json.dumps(event) + "\n" for event in events))
    try:
        verify_outcome(journal, verify_run(journal))
    except DataError as error:
        return error.message
    return ""


def test_valid_run_is_accepted(journal: Journal) -> None:
    record = verify_run(journal)
    assert (verify_outcome(journal, record).answers == verify_outcome(journal, record).labels).mean() == 0.994


def test_junk_facts_are_refused_or_harmless(journal: Journal) -> None:
    text = journal.events_file.read_text()
    whole = [json.loads(line) for line in text.splitlines()]
    believed = 0
    for path in places(whole):
        for junk in (..., *JUNK):
            events = json.loads(json.dumps(whole))
            inside = events
            for key in path[:-1]:
                inside = inside[key]
            if junk is ...:
                del inside[path[-1]]
            else:
                inside[path[-1]] = junk
            if not verdict_on(journal, events):  # not every fact is looked at: a host's name may be anything
                believed += 1
                board = rank([journal])
                assert all(form(board) for form in (to_markdown, to_csv, to_json))
    assert believed > 0
    assert not verdict_on(journal, whole)


@pytest.mark.parametrize("text", ["", "\n", "{}\n", "[" * 100_000 + "\n", "\x00\n", '{"event": "started"}\n', "1\n2\n"])
def test_invalid_journal_is_refused(journal: Journal, text: str) -> None:
    journal.events_file.write_text(text)
    with pytest.raises(DataError):
        verify_run(journal)


def test_binary_source_is_refused(journal: Journal) -> None:
    (journal.folder / "architecture.py").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="damaged"):
        verify_run(journal)
