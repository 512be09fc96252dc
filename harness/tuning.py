"""Studies: one driver asks and tells, whoever trains. The only room that knows optuna.

A study is a log of finished trials in the order of their numbers. Trial n is asked for by somebody who
sees the finished trials of earlier batches and the unfinished ones before it in its own batch, with a
seed that follows from n; it is pruned against earlier batches alone. So neither the order in which trials
finish, nor how many run at a time, nor an interruption changes a study.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import statistics
import time
import warnings
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import filelock
import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from harness import journal as journals
from harness import plugins, supervision
from harness.data import Dataset
from harness.errors import ContractError, CrashedError, DataError, HarnessError, UsageError
from harness.experiment import jobs
from harness.spec import BUDGET, Epoch, Job, Knob, Study, StudyRecord, Trial
from harness.training import derive_seed
from harness.workers import News, Workers

BATCH = 10
"""Trials asked together, unless a study says otherwise. Part of what it is: it must not depend on the machine."""

FIRST_SEED = 1_000_000
"""Trial n trains from seed `FIRST_SEED` + n, which no run begins with unless asked to."""

STARTUP = 5
"""Complete trials of earlier batches before any is pruned; Optuna's median pruner has the same number."""

MOST_LOSSES = 5
"""Failed or diverged trials in a row after which a study stops."""

COUNTED = ("complete", "pruned", "infeasible")
"""States that count as finished trials; the others are losses."""

_STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "infeasible": TrialState.PRUNED,  # its constraint teaches the sampler, which passes over failed trials
    "diverged": TrialState.FAIL,
    "failed": TrialState.FAIL,
}


@dataclass(frozen=True)
class Search:
    """What a study is: change one field and it is another study.

    Attributes:
        epochs: of every trial, unless the study suggests them; None for the architecture's own.
        dataset: with validation images held out; its name and digest are what counts.
        device: where trials train; the one field that is no part of the identity.
        batch: how many trials are asked for together.
    """

    study: Study
    dataset: Dataset
    epochs: int | None
    seed: int
    sampler: str
    pruner: str
    device: str
    batch: int = BATCH

    @property
    def settings(self) -> dict[str, Any]:
        """The fields as plain data, files by name and hash."""
        return {
            "study": self.study.name,
            "study_sha256": self.study.sha256,
            "architecture": self.study.architecture.path,
            "architecture_sha256": self.study.architecture.sha256,
            "dataset": self.dataset.name,
            "dataset_digest": self.dataset.digest,
            "epochs": self.epochs,
            "seed": self.seed,
            "sampler": self.sampler,
            "pruner": self.pruner,
            "protocol": BUDGET.protocol,
            **({} if self.batch == BATCH else {"batch": self.batch}),  # studies from before it could be chosen go on
        }

    @property
    def id(self) -> str:
        """The study's name and a hash of its settings."""
        identity = {name: value for name, value in self.settings.items() if name not in ("study", "architecture")}
        return f"{journals.plain(self.study.name)}-{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]}"


def tune(
    search: Search, trials: int, workers: Workers, timeout: float | None = None
) -> Generator[News | Trial | StudyRecord]:
    """Continue a study until `trials` are finished; yield each as it finishes, and the study after every batch.

    Args:
        workers: who trains the trials; they work from here to the end.
        timeout: seconds after which running trials are given up, to be trained again by the next call.

    Raises:
        ContractError: the first suggestion of the study raises or is not a dict.
        UsageError: it is not legal for the architecture, or another process is at work on this study.
        DataError: the study's log is damaged.
        CrashedError: `MOST_LOSSES` trials in a row were lost.
    """
    deadline = time.monotonic() + timeout if timeout is not None else None
    if (error := _Asking(search, []).ask(1)[0].error) is not None:
        raise error
    with _alone(search), workers as hired:
        log = _Log.begin(search, trials)
        asking = _Asking(search, log.study.trials)
        yield log.record(is_running=True)
        while (missing := trials - sum(trial.state in COUNTED for trial in log.trials)) > 0:
            told = len(log.trials) - asking.first
            batch = _Batch(search, log, asking.ask(min(search.batch, told + missing))[told:], asking.first)
            yield from batch.train(hired, deadline)
            asking.tell(log.trials[asking.first :])
            yield log.record(is_running=True)
            if log.losses == MOST_LOSSES:
                raise CrashedError(
                    f"{log.losses} trials in a row were lost, the last one: {log.trials[-1].reason}",
                    legal=f"The study is kept in {log.folder}.",
                    mend="Mend the architecture or the ranges of the study; the same command goes on.",
                )
            if batch.untold:
                return


def names() -> list[str]:
    """Return the id of every study there is."""
    return sorted(file.parent.name for file in _studies().glob("*/study.log"))


def records() -> Iterator[StudyRecord]:
    """Yield every study there is, as recorded.

    Raises:
        DataError: after all others, if one is damaged.
    """
    damaged = []
    for name in names():
        try:
            found = read(name)
        except Exception:  # whatever a line leads to that is no JSON, or not Optuna's
            damaged.append(name)
            continue
        if found:
            yield found
    if damaged:
        raise DataError(
            f"{_studies() / damaged[0] / 'study.log'} is damaged.",
            mend="The command that made the study says which line; python -m harness doctor can cut it off.",
        )


def left_over() -> Iterator[StudyRecord]:
    """Yield, once, every study whose process died at work."""
    for note in _studies().glob(f"*/{_AT_WORK}"):
        if not _is_locked(note.parent):
            note.unlink(missing_ok=True)
            with contextlib.suppress(Exception):  # a damaged log is told by whoever goes on with it
                if found := read(note.parent.name):
                    yield found


def cut(study: str, copy: Path) -> None:
    """Keep a copy of a damaged log, and cut it off before the first line that does not lead to a study."""
    folder = _studies() / study
    log = folder / "study.log"
    lines = log.read_bytes().splitlines(keepends=True)
    shutil.copy(log, copy)
    whole = _whole(lines)
    while whole:
        log.write_bytes(b"".join(lines[:whole]))
        try:
            found = _Log.read(folder)
            if [trial.number for trial in found.trials] == list(range(len(found.trials))):
                return
        except Exception:  # whatever the last of these lines leads to
            pass
        whole -= 1
    log.write_bytes(b"")


def read(study: str) -> StudyRecord | None:
    """Return the study of this id as recorded, or None if it was never begun."""
    folder = _studies() / study
    if not (folder / "study.log").exists():
        return None
    log = _Log.read(folder)
    return log.record(_is_locked(folder)) if "started" in log.study.user_attrs else None


def confirm(search: Search, confirmation: Mapping[str, float]) -> StudyRecord:
    """Keep with the study how its winner did against the default recipe; its ``p`` then allows for earlier looks.

    Confirmed again with another number of seeds, it is the next look, and has half the level of the one before.
    """
    log = _Log.read(_studies() / search.id)
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
    """Return the complete trial of highest validation accuracy, the first of equals; None if there is none."""
    complete = [trial for trial in trials if trial.state == "complete"]
    return max(complete, key=lambda trial: trial.value or 0.0, default=None)


def _studies() -> Path:
    return journals.ROOT.absolute() / "studies"


# --- asking ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Asked:
    """A trial as asked: what Optuna drew, what the study made of it, and the job or why there is none."""

    number: int
    drawn: optuna.Trial
    settings: dict[str, Knob]
    job: Job | None
    error: HarnessError | None

    @property
    def key(self) -> str:
        """Equal for trials that would train the same network by the same recipe."""
        return json.dumps([dict(self.job.knobs), asdict(self.job.recipe)], sort_keys=True) if self.job else ""


class _Asking:
    """Asks for the trials of one batch after the other, of somebody who knows the scores of earlier batches alone.

    In memory: what is asked again gives the same answer, so only what is finished need be kept.

    Attributes:
        first: number of the batch's first trial.
    """

    def __init__(self, search: Search, told: Sequence[FrozenTrial]) -> None:
        self._search = search
        self._live = _create(InMemoryStorage(), "live")
        self.first = len(told) // search.batch * search.batch
        self._live.add_trials(_bare(trial) for trial in told[: self.first])
        self._asked: list[_Asked] = []

    def ask(self, count: int) -> list[_Asked]:
        """Return the first `count` trials of this batch."""
        while len(self._asked) < count:
            self._asked.append(_suggest(self._search, self._live, self.first + len(self._asked)))
        return self._asked[:count]

    def tell(self, trials: Sequence[Trial]) -> None:
        """Make a batch known, if it is whole, and turn to the next."""
        if len(trials) < self._search.batch:
            return
        for asked, trial in zip(self._asked, trials, strict=True):
            for epoch in trial.epochs:
                asked.drawn.report(epoch.held_out_accuracy or 0.0, epoch.number)
            for name, value in _constraints(trial).items():
                asked.drawn.set_constraint(name, value)
            self._live.tell(asked.drawn, _value(trial), _STATES[trial.state])
        self.first += len(trials)
        self._asked = []


def _bare(told: FrozenTrial) -> FrozenTrial:
    """Return what a sampler looks at: every trial that is added is copied whole."""
    return create_trial(
        state=told.state,
        value=told.value,
        params=told.params,
        distributions=told.distributions,
        intermediate_values=told.intermediate_values,
        constraints=told.constraints,
    )


def _value(trial: Trial) -> float | None:
    return trial.value if trial.state == "complete" else None


def _constraints(trial: Trial) -> dict[str, float]:
    """Return what must not be above zero; of a network that could not be counted, by how little it may have failed."""
    untrained = trial.state == "infeasible"
    return {"parameters": (trial.parameters or BUDGET.parameters + untrained) - BUDGET.parameters}


def _suggest(search: Search, live: optuna.Study, number: int) -> _Asked:
    live.sampler = _sampler(search, number)
    trial = live.ask()
    settings: dict[str, Knob] = {}
    job, error = None, None
    try:
        settings = plugins.suggest(search.study, trial)
        _refuse_choices(search.study, trial)
        fixed: dict[str, Knob] = {} if search.epochs is None else {"epochs": search.epochs}
        architecture = search.study.architecture
        knobs, recipe = plugins.settle(architecture, {**fixed, **settings})
        seed = FIRST_SEED + number
        job = jobs(architecture, knobs, recipe, search.dataset, range(seed, seed + 1), search.device, "validation")[0]
    except HarnessError as caught:
        error = caught
    return _Asked(number, trial, settings, job, error)


def _refuse_choices(study: Study, trial: optuna.Trial) -> None:
    """Optuna stores a choice as JSON, and tells two apart by their hash."""
    for name, distribution in trial.distributions.items():
        for choice in getattr(distribution, "choices", ()):
            if type(choice) not in (bool, int, float, str, type(None)):
                raise ContractError(
                    "suggest",
                    f"suggest_categorical('{name}') has a choice of type {type(choice).__name__}.",
                    where=study.path,
                    legal="Legal: numbers, texts, True, False and None.",
                    mend="Offer names, and look up what they stand for: {'small': (8, 0.1)}[choice].",
                )


def _sampler(search: Search, number: int) -> BaseSampler:
    seed = derive_seed(search.seed, number, "sampler") % 2**32  # as much as numpy's generator takes
    return TPESampler(seed=seed) if search.sampler == "tpe" else RandomSampler(seed=seed)


def _create(storage: BaseStorage, name: str) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)


# --- a batch --------------------------------------------------------------------------------------------


class _Batch:
    """The trials of one batch that are still to be told.

    Attributes:
        untold: those that are not finished, and those after them.
    """

    def __init__(self, search: Search, log: _Log, asked: Sequence[_Asked], earlier: int) -> None:
        self.untold = deque(asked)
        self._log = log
        self._floor = _floor(log.trials[:earlier]) if search.pruner == "median" else {}
        self._done: dict[int, Trial] = {}

    def train(self, workers: Workers, deadline: float | None) -> Iterator[News | Trial]:
        """Have trained what is not known yet, yielding epochs and trials as they finish.

        Stop at the deadline, and at `MOST_LOSSES`.
        """
        originals: dict[str, int] = {}
        fresh: list[tuple[_Asked, Job]] = []
        repeated: list[_Asked] = []
        for asked in [*self.untold]:
            if (kept := self._log.kept(asked)) is not None:
                yield self._finish(kept)
            elif asked.job is None:
                reason = " ".join(asked.error.lines) if asked.error else ""
                yield self._finish(Trial(asked.number, "failed", None, asked.settings, reason=reason))
            elif asked.key in self._log.known:
                yield self._finish(_told(asked, self._log.known[asked.key]))
            elif asked.key in originals:
                repeated.append(asked)
            else:
                originals[asked.key] = asked.number
                fresh.append((asked, asked.job))
        running: dict[Future[list[Trial]], list[tuple[_Asked, Job]]] = {}
        together = workers.together
        waiting = [fresh[first : first + together] for first in range(0, len(fresh), together)]
        while running or waiting:
            if self._log.losses == MOST_LOSSES:
                return
            for group in waiting:
                given = [(asked.number, asked.settings, job) for asked, job in group]
                running[workers.submit(given, self._floor)] = group
            waiting = []
            left = math.inf if deadline is None else max(deadline - time.monotonic(), 0)
            with supervision.at_rest():
                done = workers.wait(running, left)
            yield from workers.news()
            for future in done:
                group = running.pop(future)
                lost = workers.why_lost(future)
                if lost and len(group) > 1:
                    waiting += [[one] for one in group]  # one took the others along: alone it takes itself
                else:
                    yield from (self._finish(trial) for trial in _outcomes([asked for asked, _ in group], future, lost))
            if not done and left == 0:
                return
        for asked in repeated:
            yield self._finish(_told(asked, self._done[originals[asked.key]]))

    def _finish(self, trial: Trial) -> Trial:
        """Keep a trial, and tell what is finished in the order of the numbers: the log has no gaps."""
        self._log.keep(trial)
        self._done[trial.number] = trial
        while self.untold and self.untold[0].number in self._done and self._log.losses < MOST_LOSSES:
            asked = self.untold.popleft()
            self._log.tell(asked, self._done[asked.number])
        return trial


def _told(asked: _Asked, known: Trial) -> Trial:
    return replace(known, number=asked.number, settings=asked.settings, same_as=known.number)


def _outcomes(group: Sequence[_Asked], future: Future[list[Trial]], lost: str | None) -> list[Trial]:
    """Return how these trials ended.

    Raises:
        HarnessError: something is wrong with the machine, not with the trials: nothing of it is kept.
    """
    if lost:
        return [Trial(asked.number, "failed", None, asked.settings, reason=lost) for asked in group]
    try:
        return future.result()
    except HarnessError:
        raise
    except Exception as error:  # whatever a worker could not do, or not send back
        raise CrashedError(
            f"Trial {group[0].number} could not be trained: {type(error).__name__}: {error}.",
            legal="That is not held against its settings. What is finished is kept.",
            mend="Look at the machine that was to train it; the same command goes on.",
        ) from error


def _floor(trials: Sequence[Trial]) -> dict[int, float]:
    """Return, by epoch, the median accuracy of complete trials: whoever is below it there is stopped.

    Golovin et al. 2017 (Google Vizier), section 3.2.2, as in Optuna's median pruner.
    """
    complete = [trial for trial in trials if trial.state == "complete"]
    if len(complete) < STARTUP:
        return {}
    by_epoch: dict[int, list[float]] = {}
    for trial in complete:
        for epoch in trial.epochs:
            by_epoch.setdefault(epoch.number, []).append(epoch.held_out_accuracy or 0.0)
    return {number: statistics.median(values) for number, values in by_epoch.items()}


# --- the log --------------------------------------------------------------------------------------------


class _Log:
    """A study's folder: Optuna's journal of the told trials, and the finished ones that are not told yet.

    mlruns/studies/ID/study.log   one line a trial, written whole: a kill leaves a trial or none
    mlruns/studies/ID/N.json      a finished trial of the batch at work

    Attributes:
        trials: the told ones, by number.
        losses: how many of the last ones were lost while this process was at work.
        known: the first trial of each `_Asked.key`.
    """

    def __init__(self, folder: Path, study: optuna.Study) -> None:
        self.folder = folder
        self.study = study
        self.trials: list[Trial] = []
        self.losses = 0
        self.known: dict[str, Trial] = {}
        for frozen in study.trials:
            self._add(frozen.user_attrs["key"], _trial(frozen.user_attrs["trial"]))

    def _add(self, key: str, trial: Trial) -> None:
        self.trials.append(trial)
        self.known.setdefault(key, trial)

    @classmethod
    def read(cls, folder: Path) -> _Log:
        """Open a log and write nothing: another process may be at work on it.

        Raises:
            Exception: whatever a damaged log leads to.
        """
        return cls(folder, optuna.load_study(storage=_storage(folder), study_name=folder.name))

    @classmethod
    def begin(cls, search: Search, wanted: int) -> _Log:
        """Open the log of `search`, mended, and note what it is and how many trials are wanted.

        Raises:
            DataError: it is damaged.
        """
        folder = _studies() / search.id
        is_new = not _mend(folder / "study.log")
        try:
            study = _create(_storage(folder), folder.name) if is_new else cls.read(folder).study
            log = cls(folder, study)
        except Exception as error:  # whatever a line leads to that is not Optuna's
            raise DataError(
                f"{folder / 'study.log'} is damaged: {type(error).__name__}: {error}.",
                mend="Restore the file, or move its folder away: the study is then begun anew.",
            ) from error
        if [trial.number for trial in log.trials] != list(range(len(log.trials))):
            raise DataError(
                f"{log.folder / 'study.log'} lacks a trial that was told.",
                mend="Restore the file, or move its folder away: the study is then begun anew.",
            )
        for name, value in (("search", search.settings), ("wanted", wanted)):
            if log.study.user_attrs.get(name) != value:
                log.study.set_user_attr(name, value)
        if "started" not in log.study.user_attrs:
            log.study.set_user_attr("started", round(time.time() * 1000))
        return log

    def keep(self, trial: Trial) -> None:
        """Keep a finished trial until its batch is told."""
        beside = self.folder / f"{trial.number}.part"
        beside.write_text(json.dumps(asdict(trial)), encoding="utf-8")
        os.replace(beside, self.folder / f"{trial.number}.json")

    def kept(self, asked: _Asked) -> Trial | None:
        """Return what `keep` kept, if it is whole and of the trial that is asked for."""
        try:
            trial = _trial(json.loads((self.folder / f"{asked.number}.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None
        return trial if trial.settings == asked.settings and _is_sound(trial) else None

    def tell(self, asked: _Asked, trial: Trial) -> None:
        """Append a finished trial."""
        self.study.add_trial(
            create_trial(
                state=_STATES[trial.state],
                value=_value(trial),
                params=asked.drawn.params if asked.job else {},
                distributions=asked.drawn.distributions if asked.job else {},
                intermediate_values={epoch.number: epoch.held_out_accuracy or 0.0 for epoch in trial.epochs},
                constraints=_constraints(trial),
                user_attrs={"trial": asdict(trial), "key": asked.key},
            )
        )
        self._add(asked.key, trial)
        self.losses = 0 if trial.state in COUNTED else self.losses + 1
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


def _mend(log: Path) -> bool:
    """Cut off a last line torn by a kill, refuse damage anywhere else, and return whether anything is there.

    Raises:
        DataError: a line that is not JSON.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    if not log.exists():
        return False
    whole = log.read_bytes()
    kept = whole[: whole.rfind(b"\n") + 1]
    lines = kept.splitlines()
    if (number := _whole(lines)) < len(lines):
        raise DataError(
            f"Line {number + 1} of {log} is damaged.",
            legal=f"The {number} lines before it are whole; nothing was changed.",
            mend="Restore the file, or let python -m harness doctor cut it off there: those trials are trained again.",
        )
    if kept != whole:
        os.truncate(log, len(kept))
    log.with_name(log.name + ".lock").unlink(missing_ok=True)  # Optuna's own, left by a kill: we are alone here
    return bool(kept)


def _whole(lines: Sequence[bytes]) -> int:
    """Return how many lines there are before the first that is no JSON object."""
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
    """Whether a kept outcome can be true; `complete` and `pruned` have a score."""
    scored = isinstance(trial.value, float) and 0 <= trial.value <= 1
    counted = trial.parameters is None or isinstance(trial.parameters, int)
    return trial.state in _STATES and counted and (scored or (trial.value is None and trial.state not in COUNTED[:2]))


def _importances(study: optuna.Study) -> dict[str, float]:
    """Return how much of the score's variation each setting explains (PED-ANOVA); empty while nobody can tell."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # said of too few trials, for which it calls all alike
            return optuna.importance.get_param_importances(study)
    except (ValueError, RuntimeError, TypeError, UserWarning):  # too few complete trials, or all of one score
        return {}


@contextlib.contextmanager
def _alone(search: Search) -> Iterator[None]:
    """Hold the study's lock, which the system lets go of when a process dies."""
    folder = _studies() / search.id
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _lock(folder, timeout=1):  # who only looks whether it is held holds it for an instant
            (folder / _AT_WORK).touch()
            try:
                yield
            finally:
                (folder / _AT_WORK).unlink(missing_ok=True)
    except filelock.Timeout:
        raise UsageError(
            f"Another process is at work on the study {search.id}.",
            mend="Wait for it, or stop it: the same command then goes on where it stopped.",
        ) from None


_AT_WORK = "at-work"
"""A file that a process leaves in the folder of its study only if it dies."""


def _is_locked(folder: Path) -> bool:
    try:
        with _lock(folder):
            return False
    except filelock.Timeout:
        return True


def _lock(folder: Path, timeout: float = 0) -> filelock.FileLock:
    return filelock.FileLock(folder / "tune.lock", timeout=timeout)
