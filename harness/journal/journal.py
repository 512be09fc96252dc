"""One run's folder, open for appending and reading. The package's docstring describes the files and their order."""

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
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from torch import Tensor

from harness.errors import UsageError, did_you_mean
from harness.events import Checkpoint
from harness.journal.outcome import Outcome, read_outcome, write_outcome
from harness.journal.record import Carried, Event, Origin, Record

ROOT = Path("mlruns")
"""The folder of all generated files, below the working directory."""

OUTCOME = "test.npz"
"""The file of the final test pass."""

SUBMISSION = "network.json"
"""The file of the network as data."""

CARRIED = "carried.json"
"""The file that says that a run was carried over from an older protocol."""

PROFILE = "profile.json.gz"
"""The file of a profile."""

DAMAGE = (ValueError, KeyError, TypeError, AttributeError, OSError)
"""The errors that reading a damaged journal raises."""


def journal_folder() -> Path:
    """Return the folder of all journals."""
    return ROOT.absolute() / "journal"


@dataclass(frozen=True)
class Journal:
    """The folder of one run."""

    folder: Path

    @classmethod
    def create(cls, title: str) -> Journal:
        """Make a new, empty journal whose id starts with the time and `title`.

        Raises:
            UsageError: the folder cannot be written.
        """
        while True:
            run_id = f"{time.strftime('%Y%m%d-%H%M%S')}-{safe_name(title)}-{secrets.token_hex(3)}"
            folder = journal_folder() / run_id
            try:
                with writing(folder):
                    folder.mkdir(parents=True)
            except FileExistsError:
                continue
            return cls(folder)

    @property
    def run_id(self) -> str:
        """The run's id: the folder's name."""
        return self.folder.name

    def append(self, event: str, **content: Any) -> None:
        """Append one event with its time (milliseconds since 1970) and flush it to the disk.

        Args:
            event: started, epoch, resumed, finished or failed.
            content: its fields; they must be finite and fit into JSON.

        Raises:
            UsageError: the file cannot be written; no part of the event is left in it.
        """
        line = json.dumps({"event": event, "time": round(time.time() * 1000), **content}, allow_nan=False)
        with writing(self.events_file):
            append_line(self.events_file, line)

    @property
    def events_file(self) -> Path:
        """The file of events."""
        return self.folder / "events.jsonl"

    def read(self) -> Record | None:
        """Return the events so far, or None if there are none; a torn last line, left by a kill, does not count.

        Raises:
            Exception: one of `DAMAGE`, if the journal is damaged.
        """
        if not self.events_file.exists():
            return None
        lines = self.events_file.read_text(encoding="utf-8").split("\n")[:-1]
        events: list[Event] = json.loads(f"[{','.join(lines)}]")  # one call takes half the time of a call per line
        if not events:
            return None
        epochs = [event for event in events if event["event"] == "epoch"]
        last = events[-1]
        ended = last if last["event"] in ("finished", "failed") else None
        place = self.folder / "origin.json"
        origin = _origin(place) if place.exists() else None
        process = [events[0].get("environment", {}), *(event for event in events if event["event"] == "resumed")][-1]
        return Record(self.run_id, events[0], epochs, ended, origin, process, self._carried())

    def store(self, source: str, submission: str = "") -> None:
        """Write the plug-in's text, and the network as data if there is one."""
        self._write("architecture.py", lambda path: path.write_bytes(source.encode()))  # line endings unchanged
        if submission:
            self._write(SUBMISSION, lambda path: path.write_bytes(submission.encode()))

    @property
    def source(self) -> str:
        """The plug-in's text."""
        return (self.folder / "architecture.py").read_bytes().decode()

    @property
    def submission(self) -> str:
        """The network as data: the document of a submission; empty in a record from before protocol 2."""
        file = self.folder / SUBMISSION
        return file.read_bytes().decode() if file.exists() else ""

    @property
    def has_submission(self) -> bool:
        """Whether the network is stored as data."""
        file = self.folder / SUBMISSION
        return file.exists() and file.stat().st_size > 0

    def carry_over(self, submission: str, carried: Carried) -> None:
        """Store the network of a run from an older protocol, and then that it counts under today's."""
        self._write(SUBMISSION, lambda path: path.write_bytes(submission.encode()))
        note = json.dumps(
            {"network": carried.network, "from": carried.before, "protocol": carried.protocol, "time": carried.time}
        )
        self._write(CARRIED, lambda path: path.write_text(note, encoding="utf-8"))

    def _carried(self) -> Carried | None:
        place = self.folder / CARRIED
        if not place.exists():
            return None
        stored = json.loads(place.read_text(encoding="utf-8"))
        return Carried(stored["network"], stored["from"], stored["protocol"], stored["time"])

    def store_outcome(self, outcome: Outcome, logits: np.ndarray, weights: Mapping[str, Tensor]) -> None:
        """Write the final test pass and the scored weights.

        Args:
            logits: (N, 10) float32.
            weights: state dict on the CPU.
        """

        def write_arrays(path: Path) -> None:
            with open(path, "wb") as file:
                write_outcome(file, outcome, logits=logits)

        self._write(OUTCOME, write_arrays)
        self._write("weights.pt", lambda path: torch.save(dict(weights), path))

    @property
    def has_outcome(self) -> bool:
        """Whether the final test pass is stored."""
        return (self.folder / OUTCOME).exists()

    def outcome(self) -> Outcome:
        """Return the final test pass without its logits.

        Raises:
            DataError: the file cannot be read, is damaged, or lacks an array.
        """
        return read_outcome(self.folder / OUTCOME)

    @property
    def has_weights(self) -> bool:
        """Whether the scored weights are stored; an imported run has none."""
        return (self.folder / "weights.pt").exists()

    def logits(self) -> np.ndarray:
        """Return the (N, 10) float32 logits of the final test pass.

        Raises:
            KeyError: the run was imported; it has no logits.
        """
        with np.load(self.folder / OUTCOME, allow_pickle=False) as stored:
            logits: np.ndarray = stored["logits"]
            return logits

    def weights(self) -> dict[str, Tensor]:
        """Return the scored weights, without unpickling code."""
        weights: dict[str, Tensor] = torch.load(self.folder / "weights.pt", map_location="cpu", weights_only=True)
        return weights

    # --- while the run is unfinished ---

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock of the process that trains this run; the operating system releases it when the process dies.

        Raises:
            filelock.Timeout: another process holds it.
            UsageError: the folder cannot be written.
        """
        lock = filelock.FileLock(self.folder / "lock", timeout=0)
        with writing(self.folder):
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def store_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint and delete all but the last two: the older one serves if the newer one is damaged."""
        buffer = io.BytesIO()
        torch.save({declared.name: getattr(checkpoint, declared.name) for declared in fields(checkpoint)}, buffer)
        contents = buffer.getvalue()
        name = f"checkpoint-{checkpoint.epoch}-{hashlib.sha256(contents).hexdigest()}.pt"
        self._write(name, lambda path: path.write_bytes(contents))
        for place in list(self._checkpoints().values())[:-2]:
            place.unlink(missing_ok=True)

    def checkpoint(self, epochs: int) -> Checkpoint | None:
        """Return the newest intact checkpoint of epoch `epochs` or earlier, or None, without unpickling code."""
        for epoch, place in reversed(self._checkpoints().items()):
            with contextlib.suppress(OSError):
                contents = place.read_bytes()
                if epoch <= epochs and place.stem.endswith(hashlib.sha256(contents).hexdigest()):
                    return Checkpoint(**torch.load(io.BytesIO(contents), map_location="cpu", weights_only=True))
        return None

    def drop_checkpoints(self) -> None:
        """Delete the checkpoints of a run that will not be resumed."""
        for place in self._checkpoints().values():
            place.unlink(missing_ok=True)

    def _checkpoints(self) -> dict[int, Path]:
        """Return the files of the checkpoints by epoch, in ascending order."""
        found = {int(place.name.split("-")[1]): place for place in self.folder.glob("checkpoint-*-*.pt")}
        return dict(sorted(found.items()))

    def mark_interrupted(self, died: Mapping[int, str]) -> bool:
        """Record that a run was interrupted if its process died without recording it; return whether that was so.

        A run of another host, or one that a process is training, is left alone.

        Args:
            died: why processes ended, by process id, as far as the caller knows.
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
        """Cut off a torn last line, so that the next event begins on a line of its own."""
        cut_torn_line(self.events_file)

    def _has_ended(self) -> bool:
        """Read the last line only: of a thousand journals all but a few have ended."""
        if not self.events_file.exists():
            return True
        with open(self.events_file, "rb") as file:
            file.seek(max(self.events_file.stat().st_size - 4096, 0))
            last = file.read().rpartition(b"\n")[0].rpartition(b"\n")[2]
        return last.startswith((b'{"event": "finished"', b'{"event": "failed"'))

    def _write(self, name: str, write: Callable[[Path], object]) -> None:
        """Write a file beside its place and rename it, so that a kill leaves the old file or the new one."""
        beside = self.folder / f"{name}.part"
        with writing(self.folder / name):
            try:
                write(beside)
                with open(beside, "rb+") as file:
                    os.fsync(file.fileno())
                os.replace(beside, self.folder / name)
            except OSError:
                with contextlib.suppress(OSError):
                    beside.unlink(missing_ok=True)  # it may be what filled the disk
                raise


def append_line(file: Path, line: str) -> None:
    """Append a line and flush it to the disk.

    Raises:
        OSError: the file cannot be written; no part of the line is left in it.
    """
    with open(file, "ab", buffering=0) as stream:
        before, left = stream.tell(), f"{line}\n".encode()
        try:
            while left:
                left = left[stream.write(left) :]
            os.fsync(stream.fileno())
        except OSError:  # a full disk may have taken half of the line
            stream.truncate(before)
            raise


def cut_torn_line(file: Path) -> None:
    """Cut off a torn last line, so that the next one begins on a line of its own."""
    with open(file, "rb+") as stream:
        end = stream.seek(0, os.SEEK_END)
        stream.seek(max(end - 1, 0))
        if stream.read() not in (b"", b"\n"):
            stream.seek(0)
            stream.truncate(stream.read().rfind(b"\n") + 1)


def safe_name(title: str) -> str:
    """Return the last 60 characters of `title`, in letters that are safe in any file name and query."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", title)[-60:]


def _origin(file: Path) -> Origin:
    stored = json.loads(file.read_text(encoding="utf-8"))
    held_back = stored.get("held_back")
    return Origin(
        stored["from"],
        stored["trials"],
        None if held_back is None else tuple((seed, state) for seed, state in held_back),
        tuple((title, seed, state) for title, seed, state in stored.get("lost", ())),
    )


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """Raise a `UsageError` with advice if `place` cannot be written."""
    try:
        yield
    except (FileExistsError, filelock.Timeout):
        raise
    except OSError as error:
        raise UsageError(
            f"{place} cannot be written: {error.strerror}.",
            allowed="Finished work is saved.",
            hint="Free some disk space, or allow writing there, and run the same command again.",
        ) from error


def mark_dead_runs(died: Mapping[int, str]) -> list[Journal]:
    """Mark the runs of dead processes as interrupted and return their journals; `died` as for `mark_interrupted`."""
    marked = []
    for journal in all_journals():
        # A damaged journal is left to the doctor; one that cannot be written now is left to a later command.
        with contextlib.suppress(*DAMAGE, UsageError):
            if journal.mark_interrupted(died):
                marked.append(journal)
    return marked


def all_journals() -> list[Journal]:
    """Return all journals, oldest first; those of the same second in any order."""
    if not journal_folder().is_dir():
        return []
    return [Journal(folder) for folder in sorted(journal_folder().iterdir()) if (folder / "events.jsonl").exists()]


def find_journal(run_id: str) -> Journal:
    """Return the journal of a run.

    Raises:
        UsageError: there is none.
    """
    known = {journal.run_id: journal for journal in all_journals()}
    if run_id not in known:
        raise UsageError(
            f"There is no run '{run_id}' in {journal_folder()}.",
            allowed="Allowed: the name of a folder there.",
            hint=did_you_mean(run_id, known),
        )
    return known[run_id]
