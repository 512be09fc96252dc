"""The local, append-only record of a run: the truth that everything else is made from.

One folder a run under ``mlruns/journal/``:

    events.jsonl      one JSON object a line, flushed to disk: started, epoch..., then finished or failed
    architecture.py   the plug-in's text, as it was trained
    test.npz          logits and labels of the final test pass, the most confidently wrong images
    weights.pt        the scored weights, as a plain state dict
    checkpoint-N-SHA.pt  where training stood after epoch N, with its SHA-256; the last two, while it is unfinished
    lock              held by the process that trains it
    mlflow.lock       held by whoever brings it to MLflow
    profile.json.gz   where the time of an epoch went, if that was asked for
    origin.json       only of a run that came from another machine: where from, and without weights
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from torch import Tensor

from harness.errors import UsageError
from harness.events import Checkpoint
from harness.journal.outcome import Outcome, read_outcome, write_outcome
from harness.journal.record import Event, Origin, Record

ROOT = Path("mlruns")
"""Everything generated lives here, below the folder the command is run in."""

OUTCOME = "test.npz"

PROFILE = "profile.json.gz"

DAMAGE = (ValueError, KeyError, TypeError, AttributeError, OSError)
"""What reading a journal raises that somebody damaged."""


def journal_folder() -> Path:
    """Return the folder of all journals."""
    return ROOT.absolute() / "journal"


class Journal:
    """One run's folder, open for appending and reading."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, title: str) -> Journal:
        """Make a new, empty journal whose id starts with the time and `title`.

        Raises:
            UsageError: it cannot be written here, now or later.
        """
        while True:
            run_id = f"{time.strftime('%Y%m%d-%H%M%S')}-{safe_name(title)}-{secrets.token_hex(3)}"
            folder = journal_folder() / run_id
            try:
                with _writing(folder):
                    folder.mkdir(parents=True)
            except FileExistsError:
                continue
            return cls(folder)

    @property
    def run_id(self) -> str:
        """The run's id: the folder's name."""
        return self.folder.name

    def append(self, event: str, **content: Any) -> None:
        """Write one event with the time (milliseconds since 1970) and flush it to the disk, or leave no part of it."""
        line = json.dumps({"event": event, "time": round(time.time() * 1000), **content}, allow_nan=False)
        with _writing(self.events_file), open(self.events_file, "ab", buffering=0) as file:
            before, left = file.tell(), f"{line}\n".encode()
            try:
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except OSError:  # a disk that is full may have taken half a line
                file.truncate(before)
                raise

    @property
    def events_file(self) -> Path:
        """The file of events."""
        return self.folder / "events.jsonl"

    def read(self) -> Record | None:
        """Return what is written so far, or None if nothing is; a torn last line, left by a kill, does not count."""
        if not self.events_file.exists():
            return None
        lines = self.events_file.read_text(encoding="utf-8").split("\n")[:-1]
        events: list[Event] = json.loads(f"[{','.join(lines)}]")  # at once: half the time of a line at a time
        if not events:
            return None
        epochs = [event for event in events if event["event"] == "epoch"]
        last = events[-1]
        ended = last if last["event"] in ("finished", "failed") else None
        place = self.folder / "origin.json"
        origin = _origin(place) if place.exists() else None
        process = [events[0].get("environment", {}), *(event for event in events if event["event"] == "resumed")][-1]
        return Record(self.run_id, events[0], epochs, ended, origin, process)

    def store(self, source: str) -> None:
        """Keep the plug-in's text."""
        self._write("architecture.py", lambda path: path.write_bytes(source.encode()))  # line ends as they are

    @property
    def source(self) -> str:
        """The plug-in's text."""
        return (self.folder / "architecture.py").read_bytes().decode()

    def store_outcome(self, outcome: Outcome, logits: np.ndarray, weights: Mapping[str, Tensor]) -> None:
        """Keep the final test pass and the scored weights."""

        def write_arrays(path: Path) -> None:
            with open(path, "wb") as file:
                write_outcome(file, outcome, logits=logits)

        self._write(OUTCOME, write_arrays)
        self._write("weights.pt", lambda path: torch.save(dict(weights), path))

    @property
    def has_outcome(self) -> bool:
        """Whether the final test pass is there to be read."""
        return (self.folder / OUTCOME).exists()

    def outcome(self) -> Outcome:
        """Return what is kept of the final test pass.

        Raises:
            DataError: the file cannot be read, is damaged, or lacks an array.
        """
        return read_outcome(self.folder / OUTCOME)

    @property
    def has_weights(self) -> bool:
        """Whether the scored weights are there; they never come from elsewhere."""
        return (self.folder / "weights.pt").exists()

    def logits(self) -> np.ndarray:
        """Return the (N, 10) float32 logits of the final test pass.

        Raises:
            KeyError: the run came from another machine, without them.
        """
        with np.load(self.folder / OUTCOME, allow_pickle=False) as stored:
            logits: np.ndarray = stored["logits"]
            return logits

    def weights(self) -> dict[str, Tensor]:
        """Return the scored weights; never unpickles code."""
        weights: dict[str, Tensor] = torch.load(self.folder / "weights.pt", map_location="cpu", weights_only=True)
        return weights

    # --- while it is unfinished ---

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock of whoever trains this run; the system lets go of it when a process dies.

        Raises:
            filelock.Timeout: another process holds it.
            UsageError: nothing can be written here.
        """
        lock = filelock.FileLock(self.folder / "lock", timeout=0)
        with _writing(self.folder):
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def keep(self, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint and the one before it, in case this one is ever found damaged."""
        buffer = io.BytesIO()
        torch.save({declared.name: getattr(checkpoint, declared.name) for declared in fields(checkpoint)}, buffer)
        contents = buffer.getvalue()
        name = f"checkpoint-{checkpoint.epoch}-{hashlib.sha256(contents).hexdigest()}.pt"
        self._write(name, lambda path: path.write_bytes(contents))
        for place in list(self._checkpoints().values())[:-2]:
            place.unlink(missing_ok=True)

    def checkpoint(self, epochs: int) -> Checkpoint | None:
        """Return the newest whole checkpoint of epoch `epochs` or before, or None; never unpickles code."""
        for epoch, place in reversed(self._checkpoints().items()):
            with contextlib.suppress(OSError):
                contents = place.read_bytes()
                if epoch <= epochs and place.stem.endswith(hashlib.sha256(contents).hexdigest()):
                    return Checkpoint(**torch.load(io.BytesIO(contents), map_location="cpu", weights_only=True))
        return None

    def drop_checkpoints(self) -> None:
        """Remove what nobody will go on from."""
        for place in self._checkpoints().values():
            place.unlink(missing_ok=True)

    def _checkpoints(self) -> dict[int, Path]:
        """Return the checkpoints by epoch, the oldest first."""
        found = {int(place.name.split("-")[1]): place for place in self.folder.glob("checkpoint-*-*.pt")}
        return dict(sorted(found.items()))

    def mark_interrupted(self, died: Mapping[int, str]) -> bool:
        """Say that a run was interrupted whose process died without saying so; return whether it was one.

        A run of another host, or one that somebody trains, is left alone.

        Args:
            died: what ended processes, by their numbers, as far as that is known.
        """
        if self._has_ended() or (record := self.read()) is None or record.ended:
            return False
        if record.process.get("host") != socket.gethostname():
            return False
        try:
            with self.lock():
                self.cut_torn_line()
                reason = died.get(record.process.get("pid", 0), "its process died")
                self.append("failed", state="interrupted", reason=reason)
        except filelock.Timeout:
            return False
        return True

    def cut_torn_line(self) -> None:
        """Remove what a kill left of a line, so that the next one begins on its own."""
        contents = self.events_file.read_bytes()
        os.truncate(self.events_file, contents.rfind(b"\n") + 1)

    def _has_ended(self) -> bool:
        """Look at the last line alone: of a thousand journals all but a few have ended."""
        if not self.events_file.exists():
            return True
        with open(self.events_file, "rb") as file:
            file.seek(max(self.events_file.stat().st_size - 4096, 0))
            last = file.read().rpartition(b"\n")[0].rpartition(b"\n")[2]
        return last.startswith((b'{"event": "finished"', b'{"event": "failed"'))

    def _write(self, name: str, write: Callable[[Path], object]) -> None:
        """Write a file beside its place and rename it, so that a kill leaves the old one or the new one."""
        beside = self.folder / f"{name}.part"
        with _writing(self.folder / name):
            try:
                write(beside)
                with open(beside, "rb+") as file:
                    os.fsync(file.fileno())
                os.replace(beside, self.folder / name)
            except OSError:
                with contextlib.suppress(OSError):
                    beside.unlink(missing_ok=True)  # on a disk that is full it is what there is no room for
                raise


def safe_name(title: str) -> str:
    """Return at most 60 letters that may stand in any file name and in any query."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", title)[-60:]


def _origin(file: Path) -> Origin:
    stored = json.loads(file.read_text(encoding="utf-8"))
    return Origin(stored["from"], stored["trials"])


@contextlib.contextmanager
def _writing(place: Path) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, filelock.Timeout):
        raise
    except OSError as error:
        raise UsageError(
            f"{place} cannot be written: {error.strerror}.",
            allowed="What was finished before is kept.",
            hint="Make room on that disk, or leave to write there, and give the same command again.",
        ) from error


def mark_dead_runs(died: Mapping[int, str]) -> list[Journal]:
    """Mark what dead processes left unfinished; return those journals. `died` as in `Journal.mark_interrupted`."""
    settled = []
    for journal in all_journals():
        # What is damaged is not ours to mend, and what cannot be written to is left for another day.
        with contextlib.suppress(*DAMAGE, UsageError):
            if journal.mark_interrupted(died):
                settled.append(journal)
    return settled


def all_journals() -> list[Journal]:
    """Return every journal there is, oldest first; those of one second in any order."""
    if not journal_folder().is_dir():
        return []
    return [Journal(folder) for folder in sorted(journal_folder().iterdir()) if (folder / "events.jsonl").exists()]
