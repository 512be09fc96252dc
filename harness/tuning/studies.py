"""Recorded studies: listed, read, repaired, and confirmed on the test set."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from harness.errors import DataError
from harness.events import StudyRecord, Trial
from harness.tuning.log import AT_WORK, Log, count_whole_lines, is_locked
from harness.tuning.search import Search, studies_folder


def names() -> list[str]:
    """Return the ids of all studies."""
    return sorted(file.parent.name for file in studies_folder().glob("*/study.log"))


def records() -> Iterator[StudyRecord]:
    """Yield all studies, as recorded.

    Raises:
        DataError: a study is damaged; raised after all others were yielded.
    """
    damaged = []
    for name in names():
        try:
            found = read(name)
        except Exception:  # a damaged line can raise anything
            damaged.append(name)
            continue
        if found:
            yield found
    if damaged:
        raise DataError(
            f"{studies_folder() / damaged[0] / 'study.log'} is damaged.",
            hint="The study's tune command names the damaged line; python -m harness doctor can cut it off.",
        )


def left_over() -> Iterator[StudyRecord]:
    """Yield every study whose driver died, once."""
    for note in studies_folder().glob(f"*/{AT_WORK}"):
        if not is_locked(note.parent):
            note.unlink(missing_ok=True)
            with contextlib.suppress(Exception):  # the command that resumes the study reports a damaged log
                if found := read(note.parent.name):
                    yield found


def truncate_log(study: str, copy: Path) -> None:
    """Copy a damaged log to `copy`, and cut off the first damaged line and all lines after it."""
    folder = studies_folder() / study
    log = folder / "study.log"
    lines = log.read_bytes().splitlines(keepends=True)
    shutil.copy(log, copy)
    whole = count_whole_lines(lines)
    while whole:
        log.write_bytes(b"".join(lines[:whole]))
        try:
            found = Log.read(folder)
            if [trial.number for trial in found.trials] == list(range(len(found.trials))):
                return
        except Exception:  # a damaged last line can raise anything
            pass
        whole -= 1
    log.write_bytes(b"")


def read(study: str) -> StudyRecord | None:
    """Return the study with this id as recorded, or None if it was never started.

    Raises:
        Exception: any, if the log is damaged.
    """
    folder = studies_folder() / study
    if not (folder / "study.log").exists():
        return None
    log = Log.read(folder)
    return log.record(is_locked(folder)) if "started" in log.study.user_attrs else None


def confirm(search: Search, confirmation: Mapping[str, float]) -> StudyRecord:
    """Add to the study the comparison of its winner with the default recipe, with ``p`` adjusted for earlier looks.

    Each confirmation with another number of seeds is a further look and has half the level of the one before.
    """
    log = Log.read(studies_folder() / search.id)
    seeds = [*log.study.user_attrs.get("confirmed with", [])]
    if confirmation["n"] not in seeds:
        seeds.append(confirmation["n"])
        log.study.set_user_attr("confirmed with", seeds)
    found = {**confirmation, "looks": float(seeds.index(confirmation["n"]) + 1)}
    if "p" in found:
        found["p"] = min(found["p"] * 2 ** (found["looks"] - 1), 1.0)
    log.study.set_user_attr("confirmation", found)
    return log.record(is_running=False)


def winner(trials: Sequence[Trial]) -> Trial | None:
    """Return the complete trial with the highest validation accuracy, the first of equal ones, or None."""
    complete = [trial for trial in trials if trial.state == "complete"]
    return max(complete, key=lambda trial: trial.value or 0.0, default=None)
