"""The state of data, journals, studies, plans, store and device, and what would mend it.

Nothing is deleted: what is damaged is moved to ``mlruns/damaged/``, and made again from what is whole where
that is possible.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import torch

from harness import data, runs, tracking, tuning
from harness.errors import DataError, HarnessError, TrackerError
from harness.journal import ROOT, Journal, all_journals, mark_dead_runs, verify_outcome, verify_run
from harness.leaderboard import plans
from harness.tracking import Source
from harness.training import compute

ROOM = 2**30
"""Bytes that should be free: a thousand runs take about as much."""


@dataclass(frozen=True)
class Finding:
    """What there is, and what would mend it.

    Attributes:
        subject: what it is about.
        said: how that is, in a line.
        exit_code: of the error that it would lead to; 0 where all is well.
        offer: what `fix` would do, as an order; empty where nothing can be done from here.
        fix: does it, and returns what was done.
    """

    subject: str
    said: str
    exit_code: int = 0
    offer: str = ""
    fix: Callable[[], str] | None = None


def examine() -> Iterator[Finding]:
    """Yield findings, each looked for after those before it were mended."""
    yield from _device()
    yield from _data()
    yield from _journals()
    yield from _studies()
    yield from _plans()
    yield from _store()


def _device() -> Iterator[Finding]:
    device = runs.choose_device("auto")
    compiler = "a C++ compiler" if compute.has_compiler() else "no C++ compiler: long runs are not compiled"
    bfloat16 = "bfloat16" if compute.has_bfloat16(device) else "no bfloat16 of its own"
    unused = f"; {missing}" if (missing := runs.gpu_without_code()) else ""
    yield Finding("device", f"{runs.device_name(torch.device(device))}, {bfloat16}, {compiler}{unused}")
    if ROOT.exists() and not ROOT.is_dir():
        yield Finding("disk", f"{ROOT.absolute()} is no folder: nothing can be recorded", 2)
    free = shutil.disk_usage(ROOT.absolute().parent).free
    said = f"{free / 2**30:.1f} GiB free in {ROOT.absolute().parent}"
    yield Finding("disk", said if free > ROOM else f"only {said}", 0 if free > ROOM else 2)


def _data() -> Iterator[Finding]:
    for name in data.NAMES:
        try:
            place = data.whereabouts(name)
            damaged = data.damaged(name)
        except HarnessError as error:
            yield Finding(name, error.message, error.exit_code)
            continue
        if damaged:
            files = ", ".join(map(str, damaged))
            yield Finding(
                name,
                f"not the original file: {files}",
                DataError.exit_code,
                "move it away, to be downloaded again",
                partial(_move_away, *damaged),
            )
        else:
            yield Finding(name, f"{place}{', as it should be' if place.startswith('in ') else ''}")


def _journals() -> Iterator[Finding]:
    settled = mark_dead_runs({})
    if settled:
        names = ", ".join(journal.run_id for journal in settled)
        yield Finding(
            "journal", f"{len(settled)} runs whose process had died now say that they were interrupted: {names}"
        )
    states: Counter[str] = Counter()
    damaged: dict[Journal, str] = {}
    resumable: list[str] = []
    for journal in all_journals():
        try:
            record = journal.read()
            states[record.state if record else "empty"] += 1
            if record and record.state == "finished":
                verify_outcome(journal, verify_run(journal))
            if record and record.state == "interrupted" and journal.checkpoint(len(record.epochs)):
                resumable.append(journal.run_id)
        except DataError as error:
            if "protocol" not in error.message:
                damaged[journal] = error.message
        except Exception as error:  # whatever a line leads to that somebody damaged
            damaged[journal] = f"cannot be read ({type(error).__name__})"
    yield Finding("journal", ", ".join(f"{count} {state}" for state, count in states.items()) or "no run yet")
    if resumable:
        yield Finding("journal", f"the command that began it, or run --resume, goes on with {', '.join(resumable)}")
    for journal, why in damaged.items():
        yield Finding(
            "journal",
            f"{journal.run_id} is damaged: {why}",
            DataError.exit_code,
            "move it away, to be trained again by the command that made it",
            partial(_move_away, journal.folder),
        )


def _studies() -> Iterator[Finding]:
    states: Counter[str] = Counter()
    for study in tuning.names():
        try:
            if record := tuning.read(study):
                states[record.state] += 1
        except Exception as error:  # whatever a line leads to that is no JSON, or not Optuna's
            yield Finding(
                "study",
                f"{study} is damaged ({type(error).__name__})",
                DataError.exit_code,
                "keep a copy, and cut off the first damaged line and all after it: those trials are trained again",
                partial(_cut, study),
            )
    yield Finding("study", ", ".join(f"{count} {state}" for state, count in states.items()) or "no study yet")


def _plans() -> Iterator[Finding]:
    whole = 0
    for file in plans.files():
        try:
            plans.read(file)
            whole += 1
        except DataError as error:
            offer = "move it away: the same comparison then takes new seeds"
            yield Finding("plan", error.message, error.exit_code, offer, partial(_move_away, file))
    if whole:
        yield Finding("plan", f"{whole} planned comparison{'' if whole == 1 else 's'}")


def _store() -> Iterator[Finding]:
    database = tracking.own_database()
    if database and not database.exists() and not [*_sources()]:
        yield Finding("MLflow", "no store yet")
        return
    try:
        behind = tracking.missing_runs(_sources())
    except TrackerError as error:
        is_installed = not isinstance(error.__cause__, ModuleNotFoundError)
        if database and database.exists() and is_installed:
            offer = "move it away, and make it anew from the journals"
            yield Finding("MLflow", error.message, error.exit_code, offer, partial(_make_anew, database))
        else:
            yield Finding("MLflow", f"{error.message} {error.hint}", error.exit_code)
        return
    if behind:
        yield Finding(
            "MLflow",
            f"{tracking.address()} lacks what the journals hold of {', '.join(behind)}",
            TrackerError.exit_code,
            "bring it up to the journals, as sync does",
            _sync,
        )
    else:
        yield Finding("MLflow", f"{tracking.address()} holds all there is")


def _sync() -> str:
    """Sync in another process: it runs plug-ins, and mlflow keeps the file open that this one has looked into."""
    if subprocess.run([sys.executable, "-m", "harness", "sync"], stdout=subprocess.DEVNULL).returncode:
        raise TrackerError("MLflow could not be brought up to the journals.")
    return "MLflow holds all that the journals do"


def _make_anew(database: Path) -> str:
    moved = _move_away(database)
    _sync()
    return f"{moved}, and a new one made; a backpropagation sweep is in it again when its command is given again"


def _cut(study: str) -> str:
    copy = _aside(study)
    tuning.truncate_log(study, copy)
    return f"cut off; the whole of it is {copy}"


def _sources() -> Iterator[Source]:
    readable = (study for study in map(_readable, tuning.names()) if study)
    return chain[Source](all_journals(), readable)


def _readable(study: str) -> Source | None:
    try:
        return tuning.read(study)
    except Exception:  # it has a finding of its own
        return None


def _move_away(*places: Path) -> str:
    moved = [shutil.move(place, _aside(place.name)) for place in places]  # a dataset may lie on another disk
    return f"moved to {', '.join(map(str, moved))}"


def _aside(name: str) -> Path:
    """Return a place of its own for something damaged."""
    folder = ROOT.absolute() / "damaged"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
