from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.errors import UsageError
from harness.events import Checkpoint
from harness.journal import Journal, Outcome, all_journals, mark_dead_runs


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_appended_events_are_read_in_order() -> None:
    journal = Journal.create("net-s0")
    journal.append("started", job={"name": "net"}, environment={"device": "abacus"})
    journal.append("epoch", number=1, held_out_accuracy=0.1 + 0.2)
    journal.append("epoch", number=2, held_out_accuracy=1 / 3)
    record = journal.read()
    assert record is not None
    assert record.started["job"] == {"name": "net"}
    assert [epoch["number"] for epoch in record.epochs] == [1, 2]
    assert [epoch["held_out_accuracy"] for epoch in record.epochs] == [0.1 + 0.2, 1 / 3]


@pytest.mark.parametrize(
    ("event", "content", "state"),
    [
        ("finished", {"accuracy": 0.99}, "finished"),
        ("failed", {"state": "diverged", "reason": "nan"}, "diverged"),
        ("failed", {"state": "out of memory", "reason": ""}, "out of memory"),
        ("epoch", {"number": 1}, "running"),
    ],
)
def test_last_event_gives_the_state(event: str, content: dict[str, object], state: str) -> None:
    journal = Journal.create("net-s0")
    journal.append("started", job={})
    journal.append(event, **content)
    record = journal.read()
    assert record is not None
    assert record.state == state


def test_torn_line_is_no_event() -> None:
    journal = Journal.create("net-s0")
    journal.append("started", job={})
    with open(journal.events_file, "a") as file:
        file.write('{"event": "epoch", "num')
    record = journal.read()
    assert record is not None
    assert record.epochs == []


def checkpoint(epoch: int) -> Checkpoint:
    weight = torch.full((3, 2), float(epoch))
    return Checkpoint(epoch, {"weight": weight}, {"weight": weight / 2}, [{"momentum_buffer": weight * 2}])


class TestCheckpoints:
    def test_newest_is_read_and_previous_is_kept(self) -> None:
        journal = Journal.create("net-s0")
        for epoch in range(1, 12):
            journal.store_checkpoint(checkpoint(epoch))
        found = journal.checkpoint(11)
        assert found
        assert found.epoch == 11
        assert torch.equal(found.optimizer[0]["momentum_buffer"], torch.full((3, 2), 22.0))
        assert len(list(journal.folder.glob("checkpoint-*"))) == 2

    def test_unrecorded_epoch_is_skipped(self) -> None:
        journal = Journal.create("net-s0")
        journal.store_checkpoint(checkpoint(1))
        journal.store_checkpoint(checkpoint(2))
        found = journal.checkpoint(1)
        assert found
        assert found.epoch == 1

    @pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: b"", lambda c: c[:50] + b"!" + c[51:]])
    def test_damaged_checkpoint_falls_back_to_previous(self, damage: Callable[[bytes], bytes]) -> None:
        journal = Journal.create("net-s0")
        journal.store_checkpoint(checkpoint(1))
        journal.store_checkpoint(checkpoint(2))
        (newest,) = journal.folder.glob("checkpoint-2-*")
        newest.write_bytes(damage(newest.read_bytes()))
        found = journal.checkpoint(2)
        assert found
        assert found.epoch == 1

    def test_missing_checkpoint_is_none(self) -> None:
        assert Journal.create("net-s0").checkpoint(19) is None


class TestDeadRuns:
    def started_run(self, host: str = "") -> Journal:
        journal = Journal.create("net-s0")
        journal.append("started", job={}, environment={"host": host or socket.gethostname(), "pid": 7})
        journal.append("epoch", number=1)
        return journal

    def state(self, journal: Journal) -> str:
        record = journal.read()
        assert record
        return record.state

    def test_dead_run_is_marked_interrupted_once(self) -> None:
        journal = self.started_run()
        assert [settled.run_id for settled in mark_dead_runs({})] == [journal.run_id]
        assert self.state(journal) == "interrupted"
        assert mark_dead_runs({}) == []

    @pytest.mark.parametrize(
        ("died", "reason"),
        [({7: "ended by SIGSEGV"}, "ended by SIGSEGV"), ({8: "ended by SIGSEGV"}, "its process died")],
    )
    def test_reason_is_recorded_for_own_process_only(self, died: dict[int, str], reason: str) -> None:
        journal = self.started_run()
        mark_dead_runs(died)
        record = journal.read()
        assert record
        assert record.ended
        assert record.ended["reason"] == reason

    def test_process_that_resumed_run_counts(self) -> None:
        journal = self.started_run()
        journal.append("failed", state="interrupted", reason="")
        journal.append("resumed", host="elsewhere", pid=8)
        assert mark_dead_runs({}) == []

    def test_torn_line_is_truncated_first(self) -> None:
        journal = self.started_run()
        with open(journal.events_file, "a") as file:
            file.write('{"event": "epoch", "num')
        assert [settled.run_id for settled in mark_dead_runs({})] == [journal.run_id]
        assert self.state(journal) == "interrupted"

    def test_run_in_training_is_left_alone(self) -> None:
        journal = self.started_run()
        with journal.lock():
            assert mark_dead_runs({}) == []
        assert self.state(journal) == "running"

    def test_run_of_another_host_is_left_alone(self) -> None:
        journal = self.started_run("elsewhere")
        assert mark_dead_runs({}) == []
        assert self.state(journal) == "running"

    @pytest.mark.parametrize("event", ["finished", "failed"])
    def test_ended_run_is_unchanged(self, event: str) -> None:
        journal = self.started_run()
        journal.append(event, state="diverged")
        before = journal.events_file.read_bytes()
        assert mark_dead_runs({}) == []
        assert journal.events_file.read_bytes() == before

    def test_damaged_journal_is_not_touched(self) -> None:
        journal = self.started_run()
        journal.events_file.write_text("no json\n")
        assert mark_dead_runs({}) == []
        assert journal.events_file.read_text() == "no json\n"


def test_journal_without_events_has_no_record() -> None:
    assert Journal.create("net-s0").read() is None


def test_nonfinite_number_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        Journal.create("net-s0").append("epoch", train_loss=float("nan"))


def test_every_event_is_flushed_to_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    journal = Journal.create("net-s0")
    for number in range(3):
        journal.append("epoch", number=number)
        assert len(flushed) == number + 1


def test_simultaneous_runs_get_separate_folders() -> None:
    assert len({Journal.create("net-s0").run_id for _ in range(50)}) == 50


@pytest.mark.parametrize("title", ["it's [a] {b}/../c", "x" * 240, "Übung"])
def test_run_id_is_safe_in_files_and_queries(title: str) -> None:
    run_id = Journal.create(title).run_id
    assert re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", run_id)
    assert "-s7-" in Journal.create(f"{title}-s7").run_id  # a long name loses its beginning, not its seed


def test_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlruns").write_text("a file where a folder should be")
    with pytest.raises(UsageError, match=r"mlruns.* cannot be written"):
        Journal.create("net-s0")


def test_source_keeps_its_line_ends() -> None:
    journal = Journal.create("net-s0")
    journal.store("one\r\ntwo\n")
    assert journal.source == "one\r\ntwo\n"


def test_arrays_and_weights_round_trip_exactly() -> None:
    journal = Journal.create("net-s0")
    logits = np.random.default_rng(0).normal(size=(7, 10)).astype(np.float32)
    weights = {"layer.weight": torch.randn(3, 2), "layer.count": torch.tensor(5)}
    outcome = Outcome(np.arange(7, dtype=np.uint8), *(np.arange(n) for n in (7, 3, 3, 3)))
    journal.store_outcome(outcome, logits, weights)
    assert np.array_equal(journal.logits(), logits)
    assert all(np.array_equal(getattr(journal.outcome(), name), array) for name, array in vars(outcome).items())
    assert not list(journal.folder.glob("*.part"))
    assert all(torch.equal(journal.weights()[name], tensor) for name, tensor in weights.items())


def test_journals_are_sorted_and_empty_folders_skipped() -> None:
    first, second = Journal.create("a"), Journal.create("b")
    Journal.create("never-started")
    for journal in (second, first):
        journal.append("started", job={})
    assert [journal.run_id for journal in all_journals()] == sorted([first.run_id, second.run_id])


def test_empty_folder_has_no_journals() -> None:
    assert all_journals() == []
