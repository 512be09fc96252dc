from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.errors import UsageError
from harness.journal import Journal, Outcome, all_journals


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_what_was_appended_is_read_back_in_order() -> None:
    journal = Journal.create("net-s0")
    journal.append("started", job={"name": "net"}, environment={"device": "abacus"})
    journal.append("epoch", number=1, held_out_accuracy=0.1 + 0.2)
    journal.append("epoch", number=2, held_out_accuracy=1 / 3)
    record = journal.read()
    assert record is not None
    assert record.job == {"name": "net"}
    assert record.device == "abacus, float32"
    assert [epoch["number"] for epoch in record.epochs] == [1, 2]
    assert [epoch["held_out_accuracy"] for epoch in record.epochs] == [0.1 + 0.2, 1 / 3]


@pytest.mark.parametrize(
    ("event", "content", "state"),
    [
        ("finished", {"accuracy": 0.99}, "finished"),
        ("failed", {"state": "diverged", "reason": "nan"}, "diverged"),
        ("epoch", {"number": 1}, "running"),
    ],
)
def test_the_last_event_is_the_state(event: str, content: dict[str, object], state: str) -> None:
    journal = Journal.create("net-s0")
    journal.append("started", job={})
    journal.append(event, **content)
    record = journal.read()
    assert record is not None
    assert record.state == state


def test_a_line_torn_by_a_kill_is_not_an_event() -> None:
    journal = Journal.create("net-s0")
    journal.append("started", job={})
    with open(journal.events_file, "a") as file:
        file.write('{"event": "epoch", "num')
    record = journal.read()
    assert record is not None
    assert record.epochs == []


def test_a_journal_without_events_has_no_record() -> None:
    assert Journal.create("net-s0").read() is None


def test_a_number_that_json_cannot_hold_is_refused_rather_than_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        Journal.create("net-s0").append("epoch", train_loss=float("nan"))


def test_every_event_is_flushed_to_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    journal = Journal.create("net-s0")
    for number in range(3):
        journal.append("epoch", number=number)
        assert len(flushed) == number + 1


def test_runs_started_in_the_same_second_get_folders_of_their_own() -> None:
    assert len({Journal.create("net-s0").run_id for _ in range(50)}) == 50


@pytest.mark.parametrize("title", ["it's [a] {b}/../c", "x" * 240, "Übung"])
def test_an_id_may_stand_in_any_file_name_and_any_query(title: str) -> None:
    run_id = Journal.create(title).run_id
    assert re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", run_id)
    assert "-s7-" in Journal.create(f"{title}-s7").run_id  # a long name loses its beginning, not its seed


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlruns").write_text("a file where a folder should be")
    with pytest.raises(UsageError, match=r"mlruns.* cannot be written"):
        Journal.create("net-s0")


def test_the_source_keeps_its_line_ends() -> None:
    journal = Journal.create("net-s0")
    journal.store("one\r\ntwo\n")
    assert journal.source == "one\r\ntwo\n"


def test_arrays_and_weights_come_back_bit_for_bit() -> None:
    journal = Journal.create("net-s0")
    logits = np.random.default_rng(0).normal(size=(7, 10)).astype(np.float32)
    weights = {"layer.weight": torch.randn(3, 2), "layer.count": torch.tensor(5)}
    outcome = Outcome(np.arange(7, dtype=np.uint8), *(np.arange(n) for n in (7, 3, 3, 3)))
    journal.store_outcome(outcome, logits, weights)
    assert np.array_equal(journal.logits(), logits)
    assert all(np.array_equal(getattr(journal.outcome(), name), array) for name, array in vars(outcome).items())
    assert not list(journal.folder.glob("*.part"))
    assert all(torch.equal(journal.weights()[name], tensor) for name, tensor in weights.items())


def test_all_journals_come_oldest_first_and_empty_folders_are_passed_over() -> None:
    first, second = Journal.create("a"), Journal.create("b")
    Journal.create("never-started")
    for journal in (second, first):
        journal.append("started", job={})
    assert [journal.run_id for journal in all_journals()] == sorted([first.run_id, second.run_id])


def test_where_nothing_ran_there_are_no_journals() -> None:
    assert all_journals() == []
