"""Examines device, data, journals, protocol, register, verifications, studies, plans and MLflow, and offers fixes.

Nothing is deleted: damaged files are moved to ``mlruns/damaged/``, and rebuilt from intact ones if possible.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import torch

from harness import data, runs, tracking, tuning
from harness.errors import DataError, HarnessError, TrackerError
from harness.journal import (
    ROOT,
    Journal,
    all_journals,
    begun,
    mark_dead_runs,
    verifications,
    verify_outcome,
    verify_run,
)
from harness.leaderboard import plans
from harness.spec import BUDGET, CARRIED_FROM
from harness.tracking import Source
from harness.training import compute

ROOM = 2**30
"""Bytes that should be free on disk, about as much as a thousand runs take."""


@dataclass(frozen=True)
class Finding:
    """One result of the examination.

    Attributes:
        subject: the part it is about, such as ``journal``.
        said: its state, in one line.
        exit_code: exit code of the error that it would lead to; 0 if there is no problem.
        offer: what `fix` would do, in the imperative; empty if the doctor cannot do anything about it.
        fix: fixes it and returns what was done.
    """

    subject: str
    said: str
    exit_code: int = 0
    offer: str = ""
    fix: Callable[[], str] | None = None


def examine() -> Iterator[Finding]:
    """Yield the findings; each part is examined after the caller has handled the findings before it."""
    yield from _device()
    yield from _data()
    yield from _journals()
    yield from _older()
    yield from _register()
    yield from _verifications()
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
        yield Finding("disk", f"{ROOT.absolute()} is not a folder: nothing can be recorded", 2)
    free = shutil.disk_usage(ROOT.absolute().parent).free
    text = f"{free / 2**30:.1f} GiB free in {ROOT.absolute().parent}"
    yield Finding("disk", text if free > ROOM else f"only {text}", 0 if free > ROOM else 2)


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
                "move it away, so that it is downloaded again",
                partial(_move_away, *damaged),
            )
        else:
            yield Finding(name, f"{place}{', verified' if place.startswith('in ') else ''}")


def _journals() -> Iterator[Finding]:
    marked = mark_dead_runs({})
    if marked:
        names = _first([journal.run_id for journal in marked])
        yield Finding("journal", f"runs whose process had died are now marked as interrupted: {names}")
    states: Counter[str] = Counter()
    damaged: dict[Journal, str] = {}
    resumable: list[str] = []
    for journal in all_journals():
        try:
            record = journal.read()
            states[record.state if record else "empty"] += 1
            if record and record.state == "finished":
                verify_outcome(journal, verify_run(journal, CARRIED_FROM))
            if record and record.state == "interrupted" and journal.checkpoint(len(record.epochs)):
                resumable.append(journal.run_id)
        except DataError as error:
            if "protocol" not in error.message:
                damaged[journal] = error.message
        except Exception as error:  # a damaged line can raise anything
            damaged[journal] = f"cannot be read ({type(error).__name__})"
    yield Finding("journal", ", ".join(f"{count} {state}" for state, count in states.items()) or "no run yet")
    if resumable:
        yield Finding("journal", f"the command that started it, or run --resume, can resume {', '.join(resumable)}")
    for journal, why in damaged.items():
        yield Finding(
            "journal",
            f"{journal.run_id} is damaged: {why}",
            DataError.exit_code,
            "move it away, so that the command that made it trains it again",
            partial(_move_away, journal.folder),
        )


def _older() -> Iterator[Finding]:
    """Offer to carry over the runs of an older protocol; they are no problem, and do not count until then."""
    if older := runs.runs_to_carry():
        count = len(older)
        yield Finding(
            "protocol",
            f"{count:,} run{' was' if count == 1 else 's were'} trained under an older protocol, and no longer count"
            f"{'s' if count == 1 else ''}",
            offer="execute their recorded files in confinement, and carry over those whose graph, count and start are "
            f"equal under protocol {BUDGET.protocol}",
            fix=partial(_carry_over, older),
        )


def _carry_over(older: Sequence[Journal]) -> str:
    found = [*runs.carry_over(older)]
    left = [f"{journal.run_id} is left as it is: {reason}" for journal, reason in found if reason]
    return "\n".join([f"{len(found) - len(left):,} carried over", *left])


def _register() -> Iterator[Finding]:
    """Report the register of begun runs. It is never repaired: a mended chain would say that all is well."""
    register = begun.read()
    if not register.exists:
        return
    count = len(register.runs)
    yield Finding("register", f"{count:,} begun run{'' if count == 1 else 's'}")
    present = {journal.run_id for journal in all_journals()}
    if gone := [run_id for run_id, entry in register.runs.items() if run_id not in present and not entry.withdrawn]:
        yield Finding(
            "register", f"begun and gone: {_first(gone)}; the board lists those that no equal run of their row replaces"
        )
    if register.broken_at:
        yield Finding(
            "register",
            f"line {register.broken_at} of {begun.register_file()} does not follow from the one before it: restore the "
            "file from a copy; it is left as it is",
            DataError.exit_code,
        )


def _verifications() -> Iterator[Finding]:
    for file in verifications.damaged():
        said = f"{file} is damaged: the board does not show it"
        offer = "move it away; verify the row again"
        yield Finding("verified", said, DataError.exit_code, offer, partial(_move_away, file))


def _studies() -> Iterator[Finding]:
    states: Counter[str] = Counter()
    for study in tuning.names():
        try:
            if record := tuning.read(study):
                states[record.state] += 1
        except Exception as error:  # a damaged line can raise anything
            yield Finding(
                "study",
                f"{study} is damaged ({type(error).__name__})",
                DataError.exit_code,
                "keep a copy and cut off the first damaged line and all after it; those trials are then retrained",
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
            offer = "move it away, so that the same comparison takes new seeds"
            yield Finding("plan", error.message, error.exit_code, offer, partial(_move_away, file))
    if whole:
        yield Finding("plan", f"{whole} planned comparison{'' if whole == 1 else 's'}")


def _store() -> Iterator[Finding]:
    database = tracking.own_database()
    if database and not database.exists() and not [*_sources()]:
        yield Finding("MLflow", "no store yet")
        return
    try:
        behind = tracking.find_outdated(_sources())
    except TrackerError as error:
        is_installed = not isinstance(error.__cause__, ModuleNotFoundError)
        if database and database.exists() and is_installed:
            offer = "move it away and rebuild it from the journals"
            yield Finding("MLflow", error.message, error.exit_code, offer, partial(_rebuild, database))
        else:
            yield Finding("MLflow", f"{error.message} {error.hint}", error.exit_code)
        return
    if behind:
        yield Finding(
            "MLflow",
            f"{tracking.address()} lacks runs or studies, or parts of them: {_first(behind)}",
            TrackerError.exit_code,
            "add what is missing, as sync does",
            _sync,
        )
    else:
        yield Finding("MLflow", f"{tracking.address()} is up to date")


def _first(names: Sequence[str]) -> str:
    """Return the first five names, and how many more there are."""
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return f"{', '.join(names[:5])}{more}"


def _sync() -> str:
    """Sync in another process: it runs plug-ins, and mlflow keeps a database open that this process has read."""
    if subprocess.run([sys.executable, "-m", "harness", "sync"], stdout=subprocess.DEVNULL).returncode:
        raise TrackerError("Missing runs could not be added to MLflow.")
    return "MLflow is up to date"


def _rebuild(database: Path) -> str:
    moved = _move_away(database)
    _sync()
    return f"{moved}, and a new one was built; to add a backpropagation sweep, run its command again"


def _cut(study: str) -> str:
    copy = _aside(study)
    tuning.truncate_log(study, copy)
    return f"cut off; the whole log is in {copy}"


def _sources() -> Iterator[Source]:
    readable = (study for study in map(_readable, tuning.names()) if study)
    return chain[Source](all_journals(), readable)


def _readable(study: str) -> Source | None:
    try:
        return tuning.read(study)
    except Exception:  # a damaged study has a finding of its own
        return None


def _move_away(*places: Path) -> str:
    moved = [shutil.move(place, _aside(place.name)) for place in places]  # a dataset may lie on another disk
    return f"moved to {', '.join(map(str, moved))}"


def _aside(name: str) -> Path:
    """Return a new path in ``mlruns/damaged/`` for a damaged file or folder."""
    folder = ROOT.absolute() / "damaged"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
