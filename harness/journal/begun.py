"""The register of begun runs, ``mlruns/begun.jsonl``: one JSON object a line, and nothing is ever taken out of it.

A run that is deleted, because its score disappoints or to save space, leaves its line here, and boards say so. Every
line ends with ``chain``, the SHA-256 of the chain of the line before it and of the rest of the line. So a line that is
changed, removed or put in breaks the chain, which is reported and never repaired. A line that a kill has torn is cut
off before the next one is written.

    begun      a run is about to take its first step: run, row, title, dataset, seed, protocol
    finished   it has its result: run, result (see `harness.journal.outcome.result_digest`)
    withdrawn  a user withdrew it: as ``begun``, because, and result

The owner of the machine can write the whole file anew, or cut off its last lines. The register shows what was deleted;
it is no proof against a person who forges it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import filelock

from harness.errors import DataError
from harness.journal.journal import DAMAGE, append_line, cut_torn_line, journal_folder, writing

_TAIL = 65_536
"""Bytes that surely hold the last line."""

_LATEST = 253_402_300_799_999
"""The end of the year 9999, in milliseconds since 1970: the last time that has a date."""


@dataclass(frozen=True)
class Begun:
    """A run as the register has it.

    Attributes:
        run: its id.
        row: hash of the facts that its row of the board is made of.
        title: the network with its changed knobs.
    """

    run: str
    row: str
    title: str
    dataset: str
    seed: int
    protocol: int


@dataclass(frozen=True)
class Entry:
    """What the register says of a run.

    Attributes:
        time: when it began, in milliseconds since 1970.
        result: a hash of its result; empty if it has not finished.
        withdrawn: why it was withdrawn; empty if it was not.
    """

    begun: Begun
    time: int
    result: str = ""
    withdrawn: str = ""

    @property
    def date(self) -> str:
        """The day on which it began."""
        return time.strftime("%Y-%m-%d", time.gmtime(self.time / 1000))


@dataclass(frozen=True)
class Register:
    """The register as read.

    Attributes:
        runs: by id, in the order in which they began.
        broken_at: number of the first line that does not follow from the one before it; 0 if the chain is whole.
        exists: whether there is a register.
    """

    runs: Mapping[str, Entry] = field(default_factory=dict)
    broken_at: int = 0
    exists: bool = True


def register_file() -> Path:
    """Return the file of the register."""
    return journal_folder().with_name("begun.jsonl")


def begin(run: Begun) -> None:
    """Add a run that is about to take its first step.

    Raises:
        UsageError: the file cannot be written.
    """
    _append("begun", **asdict(run))


def finish(run_id: str, result: str) -> None:
    """Add the hash of a run's result.

    Raises:
        UsageError: the file cannot be written.
    """
    _append("finished", run=run_id, result=result)


def withdraw(run: Begun, because: str, result: str) -> None:
    """Add that a user withdrew a run, and the hash of its result.

    Raises:
        UsageError: the file cannot be written.
    """
    _append("withdrawn", **asdict(run), because=because, result=result)


def read() -> Register:
    """Return what the register says; a torn last line does not count.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        lines = register_file().read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return Register(exists=False)
    except OSError as error:
        raise DataError(f"{register_file()} cannot be read: {error.strerror}.", hint="Allow reading it.") from error
    runs: dict[str, Entry] = {}
    broken = [number for number, is_sound in enumerate(_read_lines(lines, runs), 1) if not is_sound]
    return Register(runs, broken[0] if broken else 0)


def _read_lines(lines: list[bytes], runs: dict[str, Entry]) -> Iterator[bool]:
    """Add what the lines say to `runs`, and yield of each whether it is sound and follows from the one before it."""
    before = ""
    for line in lines:
        content, chain = _parsed(line)
        try:
            _note(runs, content)
            is_sound = chain == _chained(before, content)
        except DAMAGE:
            is_sound = False
        yield is_sound
        before = chain


def _note(runs: dict[str, Entry], content: Mapping[str, Any]) -> None:
    """Add what a line says to `runs`; raise one of `DAMAGE` if it cannot be."""
    event, run_id = content["event"], content["run"]
    if event == "finished":
        runs[run_id] = replace(runs[run_id], result=_text(content["result"]))
        return
    run = Begun(
        run=_text(content["run"]),
        row=_text(content["row"]),
        title=_text(content["title"]),
        dataset=_text(content["dataset"]),
        seed=_number(content["seed"]),
        protocol=_number(content["protocol"]),
    )
    known = runs.setdefault(run.run, Entry(run, _number(content["time"], _LATEST)))
    if event == "withdrawn":
        result = known.result or _text(content.get("result", ""))  # older lines have none
        runs[run.run] = replace(known, withdrawn=_text(content["because"]), result=result)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _number(value: Any, most: int = 2**62) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(value)
    return value


def _append(event: str, **content: Any) -> None:
    file = register_file()
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(file.with_suffix(".lock")):
            file.touch()
            cut_torn_line(file)
            line = {"event": event, "time": round(time.time() * 1000), **content}
            append_line(file, json.dumps({**line, "chain": _chained(_last_chain(file), line)}))


def _last_chain(file: Path) -> str:
    with open(file, "rb") as stream:
        stream.seek(max(file.stat().st_size - _TAIL, 0))
        return _parsed(stream.read().rstrip(b"\n").rpartition(b"\n")[2])[1]


def _parsed(line: bytes) -> tuple[dict[str, Any], str]:
    """Return a line's content and its chain; both are empty if it cannot be read."""
    try:
        content = dict(json.loads(line))
        return content, _text(content.pop("chain"))
    except (*DAMAGE, RecursionError):
        return {}, ""


def _chained(before: str, content: Mapping[str, Any]) -> str:
    return hashlib.sha256((before + json.dumps(content)).encode()).hexdigest()
