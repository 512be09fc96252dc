"""Finished runs exported to one file, and imported from it as journals.

The file is a zip: ``manifest.json`` with the SHA-256 of all other entries and the seeds that were begun and are not in
it, and of every run its events, its plug-in, its network as data and its predictions for the test images. Logits and
weights are not exported. An imported run is verified first, and its ledger is counted again from its network. No
plug-in is executed, nothing is unpickled, and every board marks such a run. A run of a protocol from which runs can be
carried over is kept, and counts once that is done. Verifications of the rows travel in ``manifest.json``.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from harness.errors import DataError, HarnessError, UsageError
from harness.journal.journal import CARRIED, OUTCOME, SUBMISSION, Journal, journal_folder, safe_name
from harness.journal.outcome import ARRAYS, read_outcome, write_outcome
from harness.journal.recount import recount
from harness.journal.verifications import Verification
from harness.journal.verifications import receive as receive_verifications
from harness.journal.verify import verify_outcome, verify_run
from harness.spec import CARRIED_FROM

FORMAT = 1
"""Version of the file format; raised when older files can no longer be read."""

LARGEST = 64 * 1024 * 1024
"""Most bytes that one entry may unpack to."""

LONGEST = 120
"""Most characters of a run's id."""

_EVENTS, _SOURCE = "events.jsonl", "architecture.py"
_FILES = (_EVENTS, _SOURCE, OUTCOME)
OPTIONAL = frozenset({SUBMISSION, CARRIED})
"""Files of a run that older records lack."""

_FIXED = (1980, 1, 1, 0, 0, 0)  # date of every entry, so that the same runs give the same file


@dataclass(frozen=True)
class Imported:
    """What became of a run in an import.

    Attributes:
        run_id: its id here; not the one that it came with if another run had that.
        refused: why it was refused; empty if it is kept.
        is_new: whether this import added it; False if it was here before.
    """

    run_id: str
    refused: str = ""
    is_new: bool = True


HeldBack = Sequence[tuple[int, str]]
"""Seeds of a row that were begun and are not handed over, each with what became of them."""

Lost = Sequence[tuple[str, int, str]]
"""Networks that were begun and have no row: title, seed, and what became of it."""


def export(
    runs: Iterable[tuple[Journal, int | None]],
    place: Path,
    held_back: Mapping[str, HeldBack] | None = None,
    verified: Iterable[Verification] = (),
    lost: Lost = (),
) -> int:
    """Write finished runs to one file and return their number.

    Args:
        runs: each with the number of trials that were spent on its settings, None if unknown.
        held_back: by run id, the seeds of its row that were begun and are not among `runs`; a run without an entry
            is imported and came without one.
        verified: the verifications of their rows.
        lost: what was begun of networks that have no row.

    Raises:
        UsageError: there is no run, or the file cannot be written.
    """
    files: dict[str, bytes] = {}
    trials: dict[str, int | None] = {}
    for journal, spent in runs:
        trials[journal.run_id] = spent
        outcome = io.BytesIO()
        write_outcome(outcome, journal.outcome())
        contents = {name: (journal.folder / name).read_bytes() for name in (_EVENTS, _SOURCE)}
        contents |= {OUTCOME: outcome.getvalue(), **optional_files(journal.folder)}
        files |= {f"{journal.run_id}/{name}": content for name, content in contents.items()}
    if not trials:
        raise UsageError(
            "There is no finished run to export.", hint="Train one: python -m harness run architectures/s6_gap.py"
        )
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    said: dict[str, object] = {"begun": {run_id: [*seeds] for run_id, seeds in held_back.items()}} if held_back else {}
    if found := [replace(each, origin="").stored for each in verified]:
        said["verifications"] = found
    if lost:
        said["lost"] = [*lost]
    manifest = json.dumps({"format": FORMAT, "trials": trials, **said, "sha256": hashes}, indent=1)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {"manifest.json": manifest.encode(), **files}.items():
            archive.writestr(zipfile.ZipInfo(name, _FIXED), content, zipfile.ZIP_DEFLATED)
    try:
        place.write_bytes(packed.getvalue())
    except (OSError, ValueError) as error:
        raise UsageError(f"{place} cannot be written: {error}.", hint="Name a file in another folder.") from error
    return len(trials)


def import_runs(place: Path) -> list[Imported]:
    """Verify the runs of an exported file and keep those that pass.

    Raises:
        UsageError: there is no such file.
        DataError: the file is not an export of this harness, has another format, or is damaged.
    """
    if not place.is_file():
        raise UsageError(f"There is no file {place}.", hint="Name a file that leaderboard --export wrote.")
    try:
        with zipfile.ZipFile(place) as archive:
            manifest = json.loads(_read(archive, "manifest.json"))
            if manifest["format"] != FORMAT:
                raise DataError(
                    f"{place} has format {manifest['format']}; this harness reads format {FORMAT}.",
                    hint="Update the older of the two harnesses, and export again.",
                )
            hashes, trials = dict(manifest["sha256"]), dict(manifest["trials"])
            held_back, lost = dict(manifest.get("begun", {})), [*manifest.get("lost", [])]
            arrived = [
                _take(
                    run_id, partial(_unpacked, archive, hashes, run_id), str(place), spent, held_back.get(run_id), lost
                )
                for run_id, spent in trials.items()
            ]
            receive_verifications(list(manifest.get("verifications", [])), str(place))
            return arrived
    except HarnessError:
        raise
    except Exception as error:  # a damaged or forged file can raise anything
        raise DataError(
            f"{place} is damaged, or is not an export of this harness: {type(error).__name__}: {error}.",
            allowed="Nothing was imported.",
            hint="Copy it again from the machine where python -m harness leaderboard --export FILE wrote it.",
        ) from error


def receive(run_id: str, folder: Path, origin: str) -> Imported:
    """Verify a run whose files are in `folder`, and keep it if it passes."""

    def files() -> dict[str, bytes]:
        return {name: (folder / name).read_bytes() for name in _FILES} | optional_files(folder)

    return _take(run_id, files, origin, None)


def optional_files(folder: Path) -> dict[str, bytes]:
    """Return the `OPTIONAL` files that a folder has, by name."""
    return {name: (folder / name).read_bytes() for name in sorted(OPTIONAL) if (folder / name).exists()}


def _unpacked(archive: zipfile.ZipFile, hashes: Mapping[str, str], run_id: str) -> dict[str, bytes]:
    names = [*_FILES, *(name for name in sorted(OPTIONAL) if f"{run_id}/{name}" in hashes)]
    return {name: _unpack(archive, hashes, run_id, name) for name in names}


def _unpack(archive: zipfile.ZipFile, hashes: Mapping[str, str], run_id: str, name: str) -> bytes:
    entry = f"{run_id}/{name}"
    content = _read(archive, entry)
    if hashlib.sha256(content).hexdigest() != hashes[entry]:
        raise DataError(f"{name} is not what was exported: its SHA-256 differs")
    return content


def _read(archive: zipfile.ZipFile, entry: str, most: int | None = None) -> bytes:
    most = LARGEST if most is None else most
    with archive.open(entry) as packed:
        content = packed.read(most + 1)  # the size that the archive states need not be true
    if len(content) > most:
        raise DataError(f"{entry} would unpack to more than {LARGEST:,} bytes")
    return content


def _refuse_bomb(packed: bytes) -> None:
    """Refuse other arrays than a test pass has, and those that together would unpack to more than `LARGEST`.

    The sizes that their file states need not be true.
    """
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        names = archive.namelist()
        if len(names) > len(ARRAYS) or not {*names} <= {f"{name}.npy" for name in ARRAYS}:
            raise DataError(f"{OUTCOME} holds other arrays than a test pass has")
        left = LARGEST
        for entry in names:
            left -= len(_read(archive, entry, left))


def _take(
    run_id: str,
    read: Callable[[], dict[str, bytes]],
    origin: str,
    trials: int | None,
    held_back: HeldBack | None = None,
    lost: Lost = (),
) -> Imported:
    if not re.fullmatch(rf"[A-Za-z0-9_-][A-Za-z0-9_.-]{{0,{LONGEST - 1}}}", run_id):
        return Imported(safe_name(run_id), "its name is not a valid run id")
    try:
        files = read()
        _refuse_bomb(files[OUTCOME])
        run_id, is_here = _place(run_id, files)
        if is_here:
            return Imported(run_id, is_new=False)
        with tempfile.TemporaryDirectory(dir=_made(journal_folder().parent)) as beside:
            arriving = Journal(Path(beside) / run_id)
            arriving.folder.mkdir()
            for name, content in files.items():
                (arriving.folder / name).write_bytes(content)
            note = json.dumps({"from": origin, "trials": trials, "held_back": held_back, "lost": lost})
            (arriving.folder / "origin.json").write_text(note, encoding="utf-8")
            run = verify_run(arriving, CARRIED_FROM)
            verify_outcome(arriving, run)
            recount(arriving, run.start)
            arriving.folder.rename(_made(journal_folder()) / run_id)
    except HarnessError as error:
        return Imported(run_id, error.message)
    except Exception as error:  # as in import_runs
        return Imported(run_id, f"its journal is damaged ({type(error).__name__}: {error})")
    return Imported(run_id)


def _place(run_id: str, files: Mapping[str, bytes]) -> tuple[str, bool]:
    """Return the id that a run gets or has here, and whether it is here already."""
    there = (Journal(journal_folder() / name) for name in _names(run_id, files))
    found = next(journal for journal in there if not journal.folder.exists() or _is_same(journal, files))
    return found.run_id, found.folder.exists()


def _names(run_id: str, files: Mapping[str, bytes]) -> Iterator[str]:
    """Yield the id of an arriving run, and those that it may have if another run has that: with a hash of the content.

    The last one has the whole hash, so only the same content can have it.
    """
    yield run_id
    digest = hashlib.sha256(files[_EVENTS] + files[OUTCOME]).hexdigest()
    yield from (f"{run_id[: LONGEST - 1 - digits]}-{digest[:digits]}" for digits in (6, 12, len(digest)))


def _is_same(there: Journal, files: Mapping[str, bytes]) -> bool:
    """Return whether a run that is here already has these events and predictions; it may have been withdrawn since."""
    try:
        arriving = read_outcome(io.BytesIO(files[OUTCOME]))
        known = there.events_file.read_bytes(), there.outcome().answers
    except (OSError, DataError):
        return False
    return known[0].startswith(files[_EVENTS]) and np.array_equal(known[1], arriving.answers)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
