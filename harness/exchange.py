"""Finished runs on their way between machines: written to one file, checked on arrival, kept as journals.

The file is a zip: ``manifest.json`` with the SHA-256 of all others, and of every run its events, its plug-in
and its answers to the test images. Logits and weights stay at home. What arrives is only ever read: no plug-in
is executed, nothing is unpickled, and such a run is marked on every board.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from harness import data
from harness.errors import DataError, HarnessError, UsageError
from harness.evaluation import class_accuracy, confusion
from harness.journal import OUTCOME, Journal, Outcome, Record, journals, plain, read_outcome, write_outcome
from harness.spec import BUDGET, RECIPE_FIELDS, Recipe

FORMAT = 1
"""Rises when a file of today could no longer be read."""

LARGEST = 64 * 1024 * 1024
"""Bytes that one entry may unpack to."""

_DAMAGE = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    OSError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What reading a file leads to that somebody damaged or made up."""
_EVENTS, _SOURCE = "events.jsonl", "architecture.py"
_FILES = (_EVENTS, _SOURCE, OUTCOME)
_FIXED = (1980, 1, 1, 0, 0, 0)  # the date of every entry: the same runs make the same file


@dataclass(frozen=True)
class Arrival:
    """What became of a run that arrived: taken in, or why not."""

    run_id: str
    refused: str = ""
    is_new: bool = True


def export(runs: Iterable[tuple[Journal, int | None]], place: Path) -> int:
    """Write finished runs, each with how many trials were spent on its settings, to one file; return how many.

    Raises:
        UsageError: there are none, or the file cannot be written.
    """
    files: dict[str, bytes] = {}
    trials: dict[str, int | None] = {}
    for journal, spent in runs:
        trials[journal.run_id] = spent
        packed = io.BytesIO()
        write_outcome(packed, journal.outcome())
        contents = (journal.events_file.read_bytes(), journal.source.encode(), packed.getvalue())
        files |= {f"{journal.run_id}/{name}": content for name, content in zip(_FILES, contents, strict=True)}
    if not trials:
        raise UsageError(
            "There is no finished run to export.", mend="Train one: python -m harness run architectures/s6_gap.py"
        )
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    manifest = json.dumps({"format": FORMAT, "trials": trials, "sha256": hashes}, indent=1)
    beside = place.with_name(f"{place.name}.part")
    try:
        with zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in {"manifest.json": manifest.encode(), **files}.items():
                archive.writestr(zipfile.ZipInfo(name, _FIXED), content, zipfile.ZIP_DEFLATED)
        os.replace(beside, place)
    except OSError as error:
        raise UsageError(f"{place} cannot be written: {error.strerror}.", mend="Name a file elsewhere.") from error
    return len(trials)


def take_in(place: Path) -> list[Arrival]:
    """Check the runs of an exported file and keep those that hold.

    Raises:
        UsageError: there is no such file.
        DataError: it is no export of ours, of another format, or damaged.
    """
    if not place.is_file():
        raise UsageError(f"There is no file {place}.", mend="Name a file that leaderboard --export wrote.")
    try:
        with zipfile.ZipFile(place) as archive:
            manifest = json.loads(_read(archive, "manifest.json"))
            if manifest["format"] != FORMAT:
                raise DataError(
                    f"{place} is of format {manifest['format']}; this harness reads format {FORMAT}.",
                    mend="Update the older of the two harnesses, and export again.",
                )
            hashes, trials = dict(manifest["sha256"]), dict(manifest["trials"])
            return [
                _take(run_id, partial(_unpack, archive, hashes, run_id), str(place), spent)
                for run_id, spent in trials.items()
            ]
    except _DAMAGE as error:
        raise DataError(
            f"{place} is damaged, or no export of this harness: {type(error).__name__}: {error}.",
            legal="Nothing was taken from it.",
            mend="Copy it again from where python -m harness leaderboard --export FILE wrote it.",
        ) from error


def receive(run_id: str, folder: Path, origin: str) -> Arrival:
    """Check a run whose three files lie in `folder` and keep it, if it holds."""
    return _take(run_id, lambda name: (folder / name).read_bytes(), origin, None)


def _unpack(archive: zipfile.ZipFile, hashes: Mapping[str, str], run_id: str, name: str) -> bytes:
    entry = f"{run_id}/{name}"
    content = _read(archive, entry)
    if hashlib.sha256(content).hexdigest() != hashes[entry]:
        raise DataError(f"{name} is not what was exported: its SHA-256 differs")
    return content


def _read(archive: zipfile.ZipFile, entry: str) -> bytes:
    if archive.getinfo(entry).file_size > LARGEST:
        raise DataError(f"{entry} would unpack to more than {LARGEST:,} bytes")
    return archive.read(entry)


def _take(run_id: str, read: Callable[[str], bytes], origin: str, trials: int | None) -> Arrival:
    if plain(run_id) != run_id or run_id.startswith(".") or not run_id:
        return Arrival(plain(run_id), "its name is no name of a run")
    try:
        files = {name: read(name) for name in _FILES}
        there = Journal(journals() / run_id)
        if there.events_file.exists():
            same = there.events_file.read_bytes() == files[_EVENTS]
            return Arrival(run_id, "" if same else "another run of that name is here already", is_new=False)
        if trials is not None and (not isinstance(trials, int) or trials < 0):
            raise DataError("its number of trials is no number")
        with tempfile.TemporaryDirectory(dir=_made(journals().parent)) as beside:
            arriving = Journal(Path(beside) / run_id)
            arriving.folder.mkdir()
            for name, content in files.items():
                (arriving.folder / name).write_bytes(content)
            _check(arriving)
            note = {"from": origin, "trials": trials}
            (arriving.folder / "origin.json").write_text(json.dumps(note), encoding="utf-8")
            shutil.move(arriving.folder, _made(journals()) / run_id)
    except HarnessError as error:
        return Arrival(run_id, error.wrong)
    except _DAMAGE as error:
        return Arrival(run_id, f"its journal is damaged ({type(error).__name__}: {error})")
    return Arrival(run_id)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# --- what must hold of a run that arrives ---------------------------------------------------------------


def _check(journal: Journal) -> None:
    """Hold a run against itself and against what is known here: a sum that is off is a run that was edited.

    Raises:
        HarnessError, ValueError, KeyError, TypeError, ...: it does not hold.
    """
    record = journal.read()
    if record is None or record.state != "finished":
        raise DataError("it is not finished")
    job = record.job
    if job["protocol"] != BUDGET.protocol:
        raise DataError(f"protocol {job['protocol']}; the rules are now {BUDGET.protocol}")
    if hashlib.sha256(journal.source.encode()).hexdigest() != job["sha256"]:
        raise DataError("its plug-in is not the one that was trained: the SHA-256 differs")
    if not all(text.isprintable() for text in _texts([record.started, record.epochs, record.ended])):
        raise DataError("its journal holds characters that cannot be printed")
    dataset = job["dataset"]
    if job["held_out"] != "test" or dataset not in data.NAMES or job["dataset_digest"] != data.digest(dataset):
        raise DataError("its dataset is not one that is known here")
    _check_budget(record)
    _check_score(record, read_outcome(journal.folder / OUTCOME))


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield str(key)
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def _check_budget(record: Record) -> None:
    recipe = Recipe(**{name: record.job["recipe"][name] for name in RECIPE_FIELDS})
    counted = sum(entry["numbers"] for entry in record.started["ledger"] if entry["counted"])
    if counted != record.started["parameters"]:
        raise DataError(f"its ledger adds up to {counted:,} parameters, not to {record.started['parameters']:,}")
    if not 0 < counted <= BUDGET.parameters or recipe.epochs > BUDGET.epochs:
        raise DataError("it is over the budget")
    if [epoch["number"] for epoch in record.epochs] != list(range(1, recipe.epochs + 1)):
        raise DataError("its epochs are not those of its recipe")


def _check_score(record: Record, outcome: Outcome) -> None:
    ended, job = record.ended, record.job
    assert ended
    if not data.are_test_labels(job["dataset"], outcome.labels):
        raise DataError(f"its labels are not those of {job['dataset']}")
    if outcome.answers.shape != outcome.labels.shape or outcome.answers.max() > 9:
        raise DataError("its answers are not one class an image")
    counts = confusion(outcome.answers, outcome.labels)
    said = [ended["accuracy"], *ended["class_accuracy"], record.epochs[-1]["held_out_accuracy"]]
    found = [counts.trace() / counts.sum(), *class_accuracy(counts), counts.trace() / counts.sum()]
    if not np.allclose(said, found, rtol=0, atol=1e-9):
        raise DataError("its score is not that of its answers")
    curve = [epoch["held_out_accuracy"] for epoch in record.epochs]
    best = max(curve)
    if (ended["best_accuracy"], ended["best_epoch"]) != (best, curve.index(best) + 1):
        raise DataError("its best epoch is not that of its curve")
    reached = [number for number, accuracy in enumerate(curve, 1) if accuracy >= BUDGET.accuracy]
    is_benchmark = record.started["is_benchmark"]
    if is_benchmark != (job["dataset"] == "mnist") or ended["epochs_to_target"] != (
        reached[0] if reached and is_benchmark else None
    ):
        raise DataError("its epochs to the target are not those of its curve")
    if not math.isfinite(ended["seconds"]) or ended["seconds"] < 0:
        raise DataError("its time is no time")
