"""The log of a study: its finished trials, cached trials of the current batch, and the lock of the driver."""

from __future__ import annotations

import contextlib
import json
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import filelock
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import create_trial

from harness.errors import DataError, UsageError
from harness.events import Epoch, StudyRecord, Trial
from harness.tuning.propose import STATES, Proposal, constraints_of, create_study, value_of
from harness.tuning.search import COUNTED, Search, studies_folder


class Log:
    """A study's folder: Optuna's journal of the logged trials, and cached trials that cannot be logged yet.

    mlruns/studies/ID/study.log   one line a trial, written at once: a kill leaves a whole trial or none
    mlruns/studies/ID/N.json      a finished trial of the current batch, cached until the trials before it finish

    Attributes:
        trials: the logged ones, by number.
        losses: number of failed or diverged trials in a row that this process logged last.
        known: the first trial of each `Proposal.key`.
    """

    def __init__(self, folder: Path, study: optuna.Study) -> None:
        self.folder = folder
        self.study = study
        self.trials: list[Trial] = []
        self.failures_in_a_row = 0
        self.known: dict[str, Trial] = {}
        for frozen in study.trials:
            self._add(frozen.user_attrs["key"], _trial(frozen.user_attrs["trial"]))

    def _add(self, key: str, trial: Trial) -> None:
        self.trials.append(trial)
        self.known.setdefault(key, trial)

    @classmethod
    def read(cls, folder: Path) -> Log:
        """Open a log without writing, as another process may be working on it.

        Raises:
            Exception: any, if the log is damaged.
        """
        return cls(folder, optuna.load_study(storage=_storage(folder), study_name=folder.name))

    @classmethod
    def begin(cls, search: Search, wanted: int) -> Log:
        """Open or create the log of `search`, cut off a torn last line, and store the settings and the wanted trials.

        Raises:
            DataError: the log is damaged.
        """
        folder = studies_folder() / search.id
        is_new = not _repair(folder / "study.log")
        try:
            study = create_study(_storage(folder), folder.name) if is_new else cls.read(folder).study
            log = cls(folder, study)
        except Exception as error:  # a damaged line can raise anything
            raise DataError(
                f"{folder / 'study.log'} is damaged: {type(error).__name__}: {error}.",
                hint="Restore the file, or move its folder away: the study then starts again.",
            ) from error
        if [trial.number for trial in log.trials] != list(range(len(log.trials))):
            raise DataError(
                f"{log.folder / 'study.log'} lacks a trial.",
                hint="Restore the file, or move its folder away: the study then starts again.",
            )
        for name, value in (("search", search.settings), ("wanted", wanted)):
            if log.study.user_attrs.get(name) != value:
                log.study.set_user_attr(name, value)
        if "started" not in log.study.user_attrs:
            log.study.set_user_attr("started", round(time.time() * 1000))
        return log

    def cache(self, trial: Trial) -> None:
        """Store a finished trial until it is logged."""
        beside = self.folder / f"{trial.number}.part"
        beside.write_text(json.dumps(asdict(trial)), encoding="utf-8")
        os.replace(beside, self.folder / f"{trial.number}.json")

    def cached(self, proposal: Proposal) -> Trial | None:
        """Return the stored trial of a proposal, or None if there is none or it is damaged."""
        try:
            trial = _trial(json.loads((self.folder / f"{proposal.number}.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None
        return trial if trial.settings == proposal.settings and _is_sound(trial) else None

    def tell(self, proposal: Proposal, trial: Trial) -> None:
        """Append a finished trial to the log."""
        self.study.add_trial(
            create_trial(
                state=STATES[trial.state],
                value=value_of(trial),
                params=proposal.drawn.params if proposal.job else {},
                distributions=proposal.drawn.distributions if proposal.job else {},
                intermediate_values={epoch.number: epoch.held_out_accuracy or 0.0 for epoch in trial.epochs},
                constraints=constraints_of(trial),
                user_attrs={"trial": asdict(trial), "key": proposal.key},
            )
        )
        self._add(proposal.key, trial)
        self.failures_in_a_row = 0 if trial.state in COUNTED else self.failures_in_a_row + 1
        (self.folder / f"{trial.number}.json").unlink(missing_ok=True)

    def record(self, is_running: bool) -> StudyRecord:
        """Return the study as plain data."""
        noted = self.study.user_attrs
        has_all = sum(trial.state in COUNTED for trial in self.trials) >= noted["wanted"]
        return StudyRecord(
            run_id=self.folder.name,
            search=noted["search"],
            started=noted["started"],
            wanted=noted["wanted"],
            state="finished" if has_all else "running" if is_running else "stopped",
            trials=tuple(self.trials),
            importances=_importances(self.study) if has_all else {},
            confirmation=noted.get("confirmation", {}),
        )


def _repair(log: Path) -> bool:
    """Cut off a torn last line, left by a kill, and return whether any line is left.

    Raises:
        DataError: another line is not JSON.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    if not log.exists():
        return False
    contents = log.read_bytes()
    intact = contents[: contents.rfind(b"\n") + 1]
    lines = intact.splitlines()
    if (number := count_whole_lines(lines)) < len(lines):
        raise DataError(
            f"Line {number + 1} of {log} is damaged.",
            allowed=f"The {number} lines before it are intact; nothing was changed.",
            hint="Restore the file, or let python -m harness doctor cut it off there: those trials are trained again.",
        )
    if intact != contents:
        os.truncate(log, len(intact))
    log.with_name(log.name + ".lock").unlink(missing_ok=True)  # Optuna's lock, left by a kill
    return bool(intact)


def count_whole_lines(lines: Sequence[bytes]) -> int:
    """Return the number of lines before the first that is not a JSON object."""
    for number, line in enumerate(lines):
        try:
            if not isinstance(json.loads(line), dict):
                return number
        except ValueError:
            return number
    return len(lines)


def _storage(folder: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(folder / "study.log")))


def _trial(stored: Mapping[str, Any]) -> Trial:
    return Trial(**{**stored, "epochs": tuple(Epoch(**epoch) for epoch in stored["epochs"])})


def _is_sound(trial: Trial) -> bool:
    """Return whether a cached trial is plausible; `complete` and `pruned` ones have a score."""
    scored = isinstance(trial.value, float) and 0 <= trial.value <= 1
    counted = trial.parameters is None or isinstance(trial.parameters, int)
    return trial.state in STATES and counted and (scored or (trial.value is None and trial.state not in COUNTED[:2]))


def _importances(study: optuna.Study) -> dict[str, float]:
    """Return each setting's share of the score's variation (PED-ANOVA); empty if there are too few trials."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # Optuna warns if too few trials make all settings equal
            return optuna.importance.get_param_importances(study)
    except (ValueError, RuntimeError, TypeError, UserWarning):  # too few complete trials, or all with the same score
        return {}


@contextlib.contextmanager
def alone(search: Search) -> Iterator[None]:
    """Hold the lock of a study, which the operating system releases when the process dies.

    Raises:
        UsageError: another process is working on the study.
    """
    folder = studies_folder() / search.id
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _lock(folder, timeout=1):  # a process that checks the lock holds it for a moment
            (folder / AT_WORK).touch()
            try:
                yield
            finally:
                (folder / AT_WORK).unlink(missing_ok=True)
    except filelock.Timeout:
        raise UsageError(
            f"Another process is working on the study {search.id}.",
            hint="Wait for it, or stop it and run the same command again to resume.",
        ) from None


AT_WORK = "at-work"
"""A file that a driver creates in its study's folder and deletes when it ends, so that it is left if it dies."""


def is_locked(folder: Path) -> bool:
    """Whether a process is at work on the study in `folder`."""
    try:
        with _lock(folder):
            return False
    except filelock.Timeout:
        return True


def _lock(folder: Path, timeout: float = 0) -> filelock.FileLock:
    return filelock.FileLock(folder / "tune.lock", timeout=timeout)
