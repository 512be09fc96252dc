"""Records of verifications: rows that were trained again from their stored graphs, ``mlruns/verifications/*.json``.

Such a training is no run: it has no journal, so it is no further seed of its row and is never used as one. A record
names the claimed runs by seed and result, so it says nothing of a run that came later. What another machine says it
verified is a claim, which boards show with its place.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from harness.journal.journal import DAMAGE, journal_folder, writing
from harness.journal.record import MOST_AUTHOR
from harness.spec import MOST_SEEDS

FORMAT = 1

MOST_RECEIVED = 1_000
"""Most verifications that are taken from one file."""

_MOST_TEXT = 300

Verdict = Literal["bit for bit", "agrees", "contradicted", "undecided"]


@dataclass(frozen=True)
class Verification:
    """A row that was trained again.

    Attributes:
        row: the hash of the row.
        title: its network, with changed knobs.
        author: who verified it, or empty.
        time: when, in milliseconds since 1970.
        claimed: seed and result (see `result_digest`) of each run that it is about.
        seeds: the seeds that were trained, each once, and `scores` their scores, as fractions of 1.
        verdict: bit for bit, if every training gave the claimed result; else what a test of the scores says.
        p: the p-value of that test; None without one.
        device: where it was trained, with the compute mode.
        torch, harness: versions.
        origin: the file that says so; empty for this machine.
    """

    row: str
    title: str
    dataset: str
    author: str
    time: int
    claimed: tuple[tuple[int, str], ...]
    seeds: tuple[int, ...]
    scores: tuple[float, ...]
    verdict: Verdict
    p: float | None
    device: str
    torch: str
    harness: str
    origin: str = ""

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Verification:
        """Read a stored verification.

        Raises:
            KeyError, TypeError, ValueError: it is damaged.
        """
        if stored["format"] != FORMAT:
            raise ValueError(stored["format"])
        found = cls(**{declared.name: stored[declared.name] for declared in fields(cls)})
        for text in (found.row, found.title, found.dataset, found.author, found.device, found.torch, found.harness):
            _check(isinstance(text, str) and text.isprintable() and len(text) <= _MOST_TEXT)
        _check(isinstance(found.origin, str) and found.origin.isprintable() and len(found.author) <= MOST_AUTHOR)
        numbers = [found.time, *found.seeds, *(seed for seed, _ in found.claimed)]
        _check(all(type(number) is int and 0 <= number < 2**62 for number in numbers))
        _check(all(isinstance(result, str) and len(result) == 64 for _, result in found.claimed))
        shares = [*found.scores, *([] if found.p is None else [found.p])]
        _check(all(type(share) in (int, float) and 0 <= share <= 1 for share in shares))
        _check(bool(found.seeds and found.claimed) and len(found.seeds) == len(found.scores))
        _check(found.verdict in get_args(Verdict))
        claimed = tuple((seed, result) for seed, result in found.claimed)
        of_claims = [seed for seed, _ in claimed]
        for seeds in (found.seeds, of_claims):
            _check(len({*seeds}) == len(seeds) <= MOST_SEEDS)
        _check(found.verdict != "bit for bit" or {*found.seeds} <= {*of_claims})
        return replace(found, claimed=claimed, seeds=tuple(found.seeds), scores=tuple(found.scores))

    @property
    def stored(self) -> dict[str, Any]:
        """Its content as JSON values."""
        return {"format": FORMAT, **asdict(self)}

    @property
    def date(self) -> str:
        """The day on which it was made."""
        return time.strftime("%Y-%m-%d", time.gmtime(min(self.time, 253_402_300_799_999) / 1000))

    @property
    def is_good(self) -> bool:
        """Whether it speaks for the row; what another machine says does not, as its author may have written it."""
        return not self.origin and self.verdict in ("bit for bit", "agrees")


def verifications_folder() -> Path:
    """Return the folder of all verifications."""
    return journal_folder().with_name("verifications")


def keep(found: Verification) -> Path:
    """Write a verification and return its file; its name is a hash of the content, but for where it came from.

    Raises:
        UsageError: the file cannot be written.
    """
    content = json.dumps(replace(found, origin="").stored, sort_keys=True)
    file = verifications_folder() / f"{hashlib.sha256(content.encode()).hexdigest()[:16]}.json"
    if not file.exists():
        write(file, found.stored)
    return file


def write(file: Path, content: Mapping[str, Any]) -> None:
    """Write a file of `verifications_folder`, whole or not at all.

    Raises:
        UsageError: it cannot be written.
    """
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_suffix(".part")
        beside.write_text(json.dumps(content), encoding="utf-8")
        beside.replace(file)


def receive(stored: Iterable[Any], origin: str) -> None:
    """Keep the verifications of a file that arrived, but for damaged ones."""
    for content, _ in zip(stored, range(MOST_RECEIVED), strict=False):
        found = _read(content)
        if found:
            keep(replace(found, origin=origin))


def read_all() -> list[Verification]:
    """Return all verifications, oldest first; a damaged one does not count."""
    return sorted((found for found in _by_file().values() if found), key=lambda found: found.time)


def damaged() -> list[Path]:
    """Return the files of verifications that do not count, as they are damaged."""
    return [file for file, found in _by_file().items() if not found]


def _by_file() -> dict[Path, Verification | None]:
    return {file: _read_file(file) for file in sorted(verifications_folder().glob("*.json"))}


def _read_file(file: Path) -> Verification | None:
    try:
        return _read(json.loads(file.read_text(encoding="utf-8")))
    except (*DAMAGE, RecursionError):
        return None


def _read(content: Any) -> Verification | None:
    try:
        return Verification.of(content)
    except DAMAGE:
        return None


def _check(holds: bool) -> None:
    if not holds:
        raise ValueError
