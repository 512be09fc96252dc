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
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO

import filelock
import numpy as np
import torch
from torch import Tensor

from harness.errors import DataError, UsageError
from harness.events import Checkpoint
from harness.plugins import settings_texts
from harness.spec import Arithmetic

ROOT = Path("mlruns")
"""Everything generated lives here, below the folder the command is run in."""

OUTCOME = "test.npz"

PROFILE = "profile.json.gz"

Event = dict[str, Any]

DAMAGE = (ValueError, KeyError, TypeError, AttributeError, OSError)
"""What reading a journal raises that somebody damaged."""


def journals() -> Path:
    """Return the folder of all journals."""
    return ROOT.absolute() / "journal"


@dataclass(frozen=True)
class Record:
    """A journal as read: what was said when the run started, after each epoch, and when it ended.

    Attributes:
        origin: of a run that came from another machine: ``from`` (a file or a server) and ``trials`` (how many
            were spent on its settings there, or None). Nothing in such a run is ever executed.
        process: the ``host`` and the ``pid`` of who trained it last.
    """

    run_id: str
    started: Event
    epochs: list[Event]
    ended: Event | None
    origin: Event | None = None
    process: Event = field(default_factory=dict)

    @property
    def job(self) -> dict[str, Any]:
        """The fields of `harness.spec.Job` but for the source."""
        return dict(self.started["job"])

    @property
    def title(self) -> str:
        """The architecture's name and those knobs that are not at their default: ``s6_gap width=12``."""
        job = self.job
        changed = {name: value for name, value in job["knobs"].items() if value != job["default_knobs"][name]}
        return " ".join([job["name"], *settings_texts(changed)])

    @property
    def name(self) -> str:
        """What a person looks for: ``s6_gap width=12 seed 0``."""
        return f"{self.title} seed {self.job['seed']}"

    @property
    def arithmetic(self) -> Arithmetic:
        """How its steps were computed: in a record from before there was a rule, plainly in the recipe's precision."""
        before_the_rule = {"precision": self.job.get("recipe", {}).get("precision", "float32")}
        return Arithmetic(**self.started["environment"].get("arithmetic", before_the_rule))

    @property
    def device(self) -> str:
        """What a person calls the device and the way it was used."""
        return f"{self.started['environment']['device']}, {self.arithmetic.words}"

    @property
    def state(self) -> str:
        """One of running, finished, failed, diverged, out of memory, interrupted."""
        if self.ended is None:
            return "running"
        return str(self.ended.get("state", "finished"))


@dataclass(frozen=True, eq=False)
class Outcome:
    """The final test pass of a run, all but the logits.

    Attributes:
        answers: (N,) uint8, the class each test image was given.
        labels: (N,) int64.
        hardest: (K,) positions of the most confidently wrong images.
        confidence: (K,) the probability those wrong answers were given with.
        images: (K, 28, 28) uint8, those images.
    """

    answers: np.ndarray
    labels: np.ndarray
    hardest: np.ndarray
    confidence: np.ndarray
    images: np.ndarray


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
            run_id = f"{time.strftime('%Y%m%d-%H%M%S')}-{plain(title)}-{secrets.token_hex(3)}"
            folder = journals() / run_id
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
        origin = json.loads(place.read_text(encoding="utf-8")) if place.exists() else None
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

    def settle(self, died: Mapping[int, str]) -> bool:
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


def write_outcome(file: BinaryIO, outcome: Outcome, **more: np.ndarray) -> None:
    """Write an outcome's arrays, and more, as ``.npz``."""
    arrays = {declared.name: getattr(outcome, declared.name) for declared in fields(outcome)}
    np.savez_compressed(file, **arrays, **more)  # type: ignore[arg-type]


def read_outcome(file: Path | BinaryIO) -> Outcome:
    """Read an outcome; never unpickles.

    Raises:
        DataError: it cannot be read, is damaged, or lacks an array.
    """
    try:
        with np.load(file, allow_pickle=False) as stored:
            return Outcome(**{declared.name: stored[declared.name] for declared in fields(Outcome)})
    except Exception as error:  # whatever a file leads to that somebody damaged or made up
        raise DataError(f"its answers cannot be read ({type(error).__name__})") from error


def plain(title: str) -> str:
    """Return at most 60 letters that may stand in any file name and in any query."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", title)[-60:]


@contextlib.contextmanager
def _writing(place: Path) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, filelock.Timeout):
        raise
    except OSError as error:
        raise UsageError(
            f"{place} cannot be written: {error.strerror}.",
            legal="What was finished before is kept.",
            mend="Make room on that disk, or leave to write there, and give the same command again.",
        ) from error


def settle_left_overs(died: Mapping[int, str]) -> list[Journal]:
    """Settle what dead processes left unfinished, and return those journals; `died` as in `Journal.settle`."""
    settled = []
    for journal in all_journals():
        # What is damaged is not ours to mend, and what cannot be written to is left for another day.
        with contextlib.suppress(*DAMAGE, UsageError):
            if journal.settle(died):
                settled.append(journal)
    return settled


def all_journals() -> list[Journal]:
    """Return every journal there is, oldest first; those of one second in any order."""
    if not journals().is_dir():
        return []
    return [Journal(folder) for folder in sorted(journals().iterdir()) if (folder / "events.jsonl").exists()]
