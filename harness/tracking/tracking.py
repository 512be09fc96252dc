"""Journals to MLflow runs: the only room that knows mlflow, and it loads it with the first store.

MLflow is a projection. `Store.project` reads a journal and makes the store say the same; doing it
twice changes nothing, doing it later keeps the original times. `Tracker` does so on a thread of its
own while training runs, so that a store that is slow, down or lost costs the training nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import queue
import re
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import torch
from filelock import FileLock

from harness import data, plots, plugins, watchdog
from harness import journal as journals
from harness.backprop import (
    SWEEP_NOTE,
    WEIGHTS,
    Problem,
    Trajectory,
    fastest_stable,
    sweep_markdown,
    sweep_state,
    write_csv,
)
from harness.errors import HarnessError, TrackerError, UsageError, not_installed
from harness.events import StudyRecord, Trial
from harness.journal import Arrival, Event, Journal, Record, archive
from harness.spec import BUDGET, HeldOut
from harness.statistics import summarise
from harness.tracking.notes import EXPERIMENT_NOTE, group_markdown, markdown, verdict_line
from harness.tracking.study_notes import STUDY_NOTE, study_line, study_markdown
from harness.training import confusion

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

Source = Journal | StudyRecord
"""What MLflow is a projection of."""

SWEEPS = "backprop-lr-sweep"
"""The experiment of the exercise."""

PATIENCE_SECONDS = 60.0
"""How long the end of a command waits for the store's next step: many seeds that end at once take minutes together."""

HASTE_SECONDS = 6.0
"""How long it waits when the command was stopped: the whole of its end may take ten."""

_SYNC = "python -m harness sync"
_BATCH = 1_000  # the most metrics mlflow takes at a time
_STATUS = {
    "finished": "FINISHED",
    "interrupted": "KILLED",
    "failed": "FAILED",
    "diverged": "FAILED",
    "out of memory": "FAILED",
}
_TRIAL_STATUS = {
    "complete": "FINISHED",
    "pruned": "KILLED",
    "infeasible": "KILLED",
    "diverged": "FAILED",
    "failed": "FAILED",
}
_EPOCH_METRICS = {
    "train_loss": "train/loss",
    "train_accuracy": "train/accuracy",
    "held_out_loss": "{held_out}/loss",
    "held_out_accuracy": "{held_out}/accuracy",
    "lr": "lr",
    "seconds": "epoch_seconds",
    "wall_seconds": "epoch_wall_seconds",
    "images_per_second": "images_per_second",
}
_KIND = ("mlflow.experimentKind", "custom_model_development")  # the UI's view for training rather than for chat
_RUN_ID, _GROUP_ID, _COMPLETE = "harness.run_id", "harness.group_id", "harness.complete"


def tracking_uri() -> str:
    """Return ``$MLFLOW_TRACKING_URI``, else the SQLite store under ``mlruns/``, by absolute path.

    Raises:
        UsageError: a store in memory, which would be gone with the command.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or _own_uri()
    if uri.startswith("sqlite") and (
        not re.fullmatch(r"sqlite:///[^?]+", uri) or "memory:" in uri or "///file:" in uri
    ):
        raise UsageError(
            f"MLFLOW_TRACKING_URI={uri} names no file: a store in memory would be gone with the command.",
            mend="Unset it, or name a file or a server: sqlite:////home/me/mlflow.db, http://host:5000",
        )
    return uri


def address() -> str:
    """Return `tracking_uri` for a person to read: without user and password."""
    return _without_password(tracking_uri())


def _own_uri() -> str:
    return f"sqlite:///{journals.ROOT.absolute() / 'mlflow.db'}"


def _without_password(text: str) -> str:
    return re.sub(r"://[^/\s]*@", "://***@", text)


class Store:
    """An MLflow tracking store, local or remote."""

    def __init__(self, uri: str) -> None:
        """Connect; a local store is made on first use.

        Raises:
            ModuleNotFoundError: mlflow is not installed.
            TrackerError: the local store was made for another folder.
        """
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # With mlflow's own defaults one call to a server that is down blocks for four minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # what is wrong is raised, too
        self._is_local = uri.startswith("sqlite:")
        self._experiments: dict[str, str] = {}
        self._sent: dict[str, int] = {}
        if self._is_local:
            _prepare(_database(uri))
        self._client = MlflowClient(uri)
        if uri == _own_uri():
            self._refuse_moved()

    def experiments(self) -> dict[str, str]:
        """Return the names and ids of the experiments that hold runs of ours, the newest first."""
        found = self._client.search_experiments(order_by=["last_update_time DESC"])
        return {experiment.name: experiment.experiment_id for experiment in found if experiment.name != "Default"}

    def project(self, source: Source) -> None:
        """Bring the store up to a journal, all but the model, or to a study: idempotent, with their own times.

        Safe while training runs: it draws no random number and runs none of the plug-in's code.
        """
        with _only_one(source):
            if isinstance(source, StudyRecord):
                self._project_study(source)
            else:
                self._project_run(source)

    def _project_run(self, journal: Journal) -> None:
        record = journal.read()
        if record is None:
            return
        experiment = self._experiment(record.job["dataset"])
        known = self._find(experiment, _RUN_ID, record.run_id)
        if known and record.ended and _is_complete(known) and known.info.status == _STATUS[record.state]:
            return
        if known and known.info.status == "KILLED" and record.state != "interrupted":
            self._reopen(known)
        run_id = self._begin_run(experiment, record, known)
        unsent = record.epochs[self._sent.get(run_id, 0) :]  # sending one again would be harmless, but not free
        self._log_metrics(run_id, [metric for epoch in unsent for metric in _epoch_metrics(epoch, "test")])
        self._sent[run_id] = len(record.epochs)
        if record.ended:
            self._close(run_id, journal, record, record.ended)
            if _group(record):
                self._sum_up(experiment, record)
            self._client.set_tag(run_id, _COMPLETE, "true")

    def holds(self, source: Source) -> bool:
        """Whether the store says all that a journal or a study does; of one that has not ended, nothing is asked."""
        if isinstance(source, StudyRecord):
            search = source.search
            run = self._lookup(f"tune/{search['dataset']}/{search['study']}", source.run_id)
            if source.state == "finished":
                return run is not None and run.data.tags.get(_COMPLETE) == _version(source)
            return source.state == "running" or (run is not None and run.info.status == "KILLED")
        try:
            record = source.read()
        except ValueError:  # damaged: there is nothing to be held
            return True
        if record is None or not record.ended:
            return True
        run = self._lookup(record.job["dataset"], record.run_id)
        return run is not None and _is_complete(run) and run.info.status == _STATUS[record.state]

    def _lookup(self, experiment: str, run_id: str) -> Run | None:
        found = self._client.get_experiment_by_name(experiment)
        return self._find(found.experiment_id, _RUN_ID, run_id) if found else None

    def add_model(self, source: Source) -> None:
        """Add the scored network to a finished run that lacks it; a study has none.

        Builds the network, so it draws from the random numbers that training in this process draws from:
        only for when nothing trains.
        """
        if not isinstance(source, Journal) or (record := source.read()) is None or record.state != "finished":
            return
        if not source.has_weights:  # it came from elsewhere, and what came from elsewhere is never executed
            return
        with _only_one(source):
            self._add_model(source, record)

    def _add_model(self, journal: Journal, record: Record) -> None:
        run = self._find(self._experiment(record.job["dataset"]), _RUN_ID, record.run_id)
        assert run  # projected before
        run_id = run.info.run_id
        if all(artifact.path != "model" for artifact in self._client.list_artifacts(run_id)):
            with tempfile.TemporaryDirectory() as folder:
                _write_model(Path(folder) / "model", journal, record)
                self._client.log_artifacts(run_id, folder)

    def _refuse_moved(self) -> None:
        """MLflow keeps artifacts by absolute path: a copy would write into the folder it was copied from."""
        for experiment in self._client.search_experiments():
            place = Path(url2pathname(urlsplit(experiment.artifact_location).path))
            if experiment.name != "Default" and place.resolve() != _artifacts(experiment.name).resolve():
                raise TrackerError(
                    f"{_database(_own_uri())} was moved or copied here, and would write artifacts to {place}.",
                    mend="python -m harness doctor makes it anew from the journals.",
                )

    def _experiment(self, name: str) -> str:
        if name not in self._experiments:
            found = self._client.get_experiment_by_name(name)
            if found is not None and found.lifecycle_stage == "deleted":
                self._client.restore_experiment(found.experiment_id)
            self._experiments[name] = found.experiment_id if found else self._create_experiment(name)
        return self._experiments[name]

    def _create_experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        tags = dict([_KIND, ("mlflow.note.content", _note(name))])
        # Left to itself, a local store puts artifacts into the working directory of whoever came first.
        place = _artifacts(name).as_uri() if self._is_local else None
        try:
            return str(self._client.create_experiment(name, artifact_location=place, tags=tags))
        except MlflowException:  # another process made it in between
            found = self._client.get_experiment_by_name(name)
            if found is None:
                raise
            return str(found.experiment_id)

    def _find(self, experiment: str, tag: str, value: str) -> Run | None:
        """Return the run whose `tag` is `value`, if there is one."""
        found = self._client.search_runs([experiment], filter_string=f"tags.`{tag}` = '{value}'", max_results=1)
        return found[0] if found else None

    def _reopen(self, run: Run) -> None:
        """A run that went on after it was interrupted is running again, and no longer says why it stopped."""
        self._client.update_run(run.info.run_id, status="RUNNING")
        self._client.set_tag(run.info.run_id, "verdict", "running")
        if "reason" in run.data.tags:
            self._client.delete_tag(run.info.run_id, "reason")

    def _begin_run(self, experiment: str, record: Record, known: Run | None) -> str:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        tags = {**_tags(record), _RUN_ID: record.run_id, "mlflow.note.content": markdown(record)}
        if _group(record):
            tags["mlflow.parentRunId"] = self._parent(experiment, record)
        run = self._begin(experiment, record.started["time"], record.name, tags, _params(record), known)
        if not (run.inputs and run.inputs.dataset_inputs):
            name, digest = record.job["dataset"], record.job["dataset_digest"]
            source = json.dumps({"dataset": name, "sha256": digest})
            dataset = Dataset(name, digest[:36], "local", source)  # 36 characters are the most mlflow takes
            self._client.log_inputs(
                run.info.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])]
            )
        return str(run.info.run_id)

    def _begin(
        self,
        experiment: str,
        time: int,
        name: str,
        tags: Mapping[str, str],
        params: Mapping[str, Any],
        known: Run | None = None,
    ) -> Run:
        """Make a run if it is not known; either way give it the params it lacks: a server may die between the two."""
        from mlflow.entities import Param

        run = known or self._client.create_run(experiment, time, dict(tags), name)
        missing = [Param(key, str(value)) for key, value in params.items() if key not in run.data.params]
        if missing:
            self._client.log_batch(run.info.run_id, params=missing)
        return run

    def _log_metrics(self, run_id: str, metrics: Sequence[Metric]) -> None:
        for first in range(0, len(metrics), _BATCH):
            self._client.log_batch(run_id, metrics=metrics[first : first + _BATCH])

    def _close(self, run_id: str, journal: Journal, record: Record, ended: Event) -> None:
        from mlflow.entities import RunTag

        tags = {"mlflow.note.content": markdown(record), "verdict": verdict_line(record)}
        if record.state != "finished":
            tags["reason"] = ended["reason"]
        with tempfile.TemporaryDirectory() as folder:
            _write_artifacts(Path(folder), journal, record)
            self._client.log_artifacts(run_id, folder)
        metrics = _final_metrics(record) if record.state == "finished" else []
        self._client.log_batch(run_id, metrics=metrics, tags=[RunTag(key, value) for key, value in tags.items()])
        self._client.set_terminated(run_id, _STATUS[record.state], end_time=ended["time"])

    # --- several seeds under one parent ---

    def _parent(self, experiment: str, record: Record) -> str:
        group = record.started["group"]
        known = self._find(experiment, _GROUP_ID, group["id"])
        params = {key: value for key, value in _params(record).items() if key != "seed"}
        name = f"{record.title} {group['size']} seeds"
        tags = {**_tags(record), _GROUP_ID: group["id"]}
        return str(self._begin(experiment, record.started["time"], name, tags, params, known).info.run_id)

    def _sum_up(self, experiment: str, record: Record) -> None:
        """Once the last child has ended, give the parent mean, spread and interval, and its own end."""
        from mlflow.entities import Metric, RunTag

        assert record.ended
        parent, time = self._parent(experiment, record), record.ended["time"]
        children = self._client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
        ended = [child for child in children if child.info.status in _STATUS.values()]
        scores = {
            int(child.data.params["seed"]): child.data.metrics["test/final_accuracy"]
            for child in ended
            if child.info.status == "FINISHED"
        }
        size = record.started["group"]["size"]
        seeds = {child.data.params["seed"] for child in ended}  # one that lost its worker is begun anew
        if len(seeds) < size and record.state == "finished":
            return  # more are to come; a seed that did not finish ends the command
        tags = {"verdict": f"{len(scores)} of {size} seeds finished"}
        metrics = [Metric("parameters", record.started["parameters"], time, 0)]
        if scores:
            summary = summarise(list(scores.values()))
            tags["mlflow.note.content"] = group_markdown(scores, summary)
            values = {
                "n": summary.n,
                "test/final_accuracy": summary.mean,
                "test/final_accuracy_std": summary.std,
                "test/final_accuracy_low95": summary.low,
                "test/final_accuracy_high95": summary.high,
            }
            metrics += [Metric(key, value, time, 0) for key, value in values.items() if value is not None]
        self._client.log_batch(parent, metrics=metrics, tags=[RunTag(key, value) for key, value in tags.items()])
        status = "FINISHED" if len(scores) == size else _STATUS[record.state]
        self._client.set_terminated(parent, status, end_time=max([time, *(child.info.end_time for child in ended)]))

    # --- runs of other machines ---

    def pull(self) -> Iterator[Arrival]:
        """Keep a journal of every finished run that the store has and this machine has not; checked on arrival."""
        for name, experiment in self.experiments().items():
            if name in data.NAMES:
                for run in self._search(experiment, f"attributes.status = 'FINISHED' and tags.`{_COMPLETE}` = 'true'"):
                    run_id = run.data.tags.get(_RUN_ID, "")
                    if run_id and not Journal(journals.journals() / run_id).events_file.exists():
                        yield self._fetch(run, run_id)

    def _fetch(self, run: Run, run_id: str) -> Arrival:
        source = f"{journals.plain(run.data.tags.get('architecture', ''))}.py"
        names = {"journal.jsonl": "events.jsonl", source: "architecture.py"}
        with tempfile.TemporaryDirectory() as folder:
            try:
                for artifact in (*names, journals.OUTCOME):
                    got = Path(self._client.download_artifacts(run.info.run_id, artifact, folder))
                    got.rename(Path(folder) / names.get(artifact, artifact))
            except Exception as error:
                self.experiments()  # a server that is gone is another matter than a run that lacks a file
                return Arrival(run_id, f"its artifacts cannot be had: {_gist(error)}")
            return archive.receive(run_id, Path(folder), _without_password(self._client.tracking_uri))

    # --- a study and its trials ---

    def _project_study(self, record: StudyRecord) -> None:
        from mlflow.entities import RunTag

        search = record.search
        experiment = self._experiment(f"tune/{search['dataset']}/{search['study']}")
        known = self._find(experiment, _RUN_ID, record.run_id)
        if known and known.data.tags.get(_COMPLETE) == _version(record):
            return
        name = f"{search['study']} seed {search['seed']}"
        own = {**_study_tags(record), _RUN_ID: record.run_id}
        parent = str(self._begin(experiment, record.started, name, own, search, known).info.run_id)
        children = self._trials(experiment, parent)
        for trial in record.trials:
            tag = f"{record.run_id}/{trial.number}"
            if tag not in children or children[tag].info.status == "RUNNING":
                self._record_trial(experiment, parent, record, trial, children.get(tag))
        tags = {"mlflow.note.content": study_markdown(record), "verdict": study_line(record)}
        self._log_metrics(parent, _study_metrics(record))
        if record.state != "finished":
            self._client.log_batch(parent, tags=[RunTag(key, value) for key, value in tags.items()])
            if record.state == "running":
                self._client.update_run(parent, status="RUNNING")
            else:
                self._client.set_terminated(parent, "KILLED")
            return
        with tempfile.TemporaryDirectory() as folder:
            _write_study_artifacts(Path(folder), record)
            self._client.log_artifacts(parent, folder)
        tags[_COMPLETE] = _version(record)
        self._client.log_batch(parent, tags=[RunTag(key, value) for key, value in tags.items()])
        ended = max(trial.ended for trial in record.trials)
        self._client.set_terminated(parent, "FINISHED", end_time=ended)

    def _trials(self, experiment: str, parent: str) -> dict[str, Run]:
        """Return a study's trials by their tag."""
        found = self._search(experiment, f"tags.`mlflow.parentRunId` = '{parent}'")
        return {run.data.tags[_RUN_ID]: run for run in found}

    def _search(self, experiment: str, filter_string: str) -> Iterator[Run]:
        token: str | None = None
        while token != "":
            part = self._client.search_runs([experiment], filter_string, max_results=_BATCH, page_token=token)
            yield from part
            token = part.token or ""

    def _record_trial(self, experiment: str, parent: str, record: StudyRecord, trial: Trial, begun: Run | None) -> None:
        tags = {
            **_study_tags(record),
            _RUN_ID: f"{record.run_id}/{trial.number}",
            "mlflow.parentRunId": parent,
            "verdict": trial.state,
            "reason": trial.reason,
        }
        params = {**trial.settings, "parameters": trial.parameters}
        run_id = self._begin(experiment, trial.started, f"trial {trial.number}", tags, params, begun).info.run_id
        events = [{**asdict(epoch), "time": trial.ended} for epoch in trial.epochs]
        self._log_metrics(run_id, [metric for event in events for metric in _epoch_metrics(event, "validation")])
        self._client.set_terminated(run_id, _TRIAL_STATUS[trial.state], end_time=trial.ended)

    # --- the learning-rate sweep of the exercise ---

    def record_sweep(self, problem: Problem, trajectories: Sequence[Trajectory]) -> None:
        """Record a sweep, a child a learning rate; the same sweep again is the same run."""
        from mlflow.entities import Metric, RunTag

        experiment = self._experiment(SWEEPS)
        settings = {**asdict(problem), "lr": [t.lr for t in trajectories], "steps": len(trajectories[0].rows) - 1}
        identity = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
        found = self._find(experiment, _RUN_ID, identity)
        if found and _is_complete(found):
            return
        if found:
            self._delete(experiment, found.info.run_id)  # somebody stopped half-way
        now = round(time.time() * 1000)
        targets = ", ".join(f"{target:g}" for target in problem.targets)
        tags = {_RUN_ID: identity, "mlflow.note.content": sweep_markdown(problem, trajectories)}
        name = f"targets {targets}, {len(trajectories)} rates, {settings['steps']} steps"
        parent = self._begin(experiment, now, name, tags, settings).info.run_id
        metrics = [Metric(f"final_loss/lr_{t.rate}", t.final_loss, now, 0) for t in trajectories]
        best = fastest_stable(trajectories)
        if best:
            metrics.append(Metric("fastest_stable_lr", best.lr, now, 0))
        with tempfile.TemporaryDirectory() as folder:
            _write_sweep_artifacts(Path(folder), problem, trajectories)
            self._client.log_artifacts(parent, folder)
        for trajectory in trajectories:
            self._record_descent(experiment, parent, trajectory, {**settings, "lr": trajectory.lr}, now)
        self._client.log_batch(parent, metrics=metrics, tags=[RunTag(_COMPLETE, "true")])
        self._client.set_terminated(parent, "FINISHED")

    def _delete(self, experiment: str, parent: str) -> None:
        for child in self._client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'"):
            self._client.delete_run(child.info.run_id)
        self._client.delete_run(parent)

    def _record_descent(
        self, experiment: str, parent: str, trajectory: Trajectory, settings: Mapping[str, Any], now: int
    ) -> None:
        from mlflow.entities import Metric

        tags = {"mlflow.parentRunId": parent, "state": sweep_state(trajectory)}
        run_id = self._begin(experiment, now, f"lr {trajectory.rate}", tags, settings).info.run_id
        shown = ("E_total", "E1", "E2", "a_o1", "a_o2", *WEIGHTS)
        metrics = [Metric(name, row[name], now, step) for step, row in enumerate(trajectory.rows) for name in shown]
        self._log_metrics(run_id, metrics)
        self._client.set_terminated(run_id, "FINISHED")


def experiments(uri: str) -> dict[str, str]:
    """Return the experiments of a store, name to id; a local store is made if there is none.

    Raises:
        TrackerError: the store cannot be reached.
    """
    with _reaching(uri):
        return Store(uri).experiments()


def _only_one(source: Source) -> FileLock:
    """Return the lock of whoever brings this to MLflow: two who find nothing there would both make it."""
    kind = "studies" if isinstance(source, StudyRecord) else "journal"
    return FileLock(journals.ROOT.absolute() / kind / source.run_id / "mlflow.lock")


def _version(record: StudyRecord) -> str:
    return f"{len(record.trials)} trials{', confirmed' if record.confirmation else ''}"


def _is_complete(run: Run) -> bool:
    return bool(run.data.tags.get(_COMPLETE) == "true")


def _note(experiment: str) -> str:
    if experiment.startswith("tune/"):
        return STUDY_NOTE
    return SWEEP_NOTE if experiment == SWEEPS else EXPERIMENT_NOTE


def _artifacts(experiment: str) -> Path:
    return journals.ROOT.absolute() / "artifacts" / experiment


def _database(uri: str) -> Path:
    return Path(uri.removeprefix("sqlite:///").partition("?")[0])


def _prepare(database: Path) -> None:
    """Make a local store if there is none, and see that it opens: mlflow itself would try for minutes.

    The schema is made beside and moved in whole, by one process: half a schema never opens again.
    """
    from mlflow import MlflowClient

    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(database.with_suffix(".lock")):
        if not database.exists() or database.stat().st_size == 0:
            for left in database.parent.glob("making-*"):  # by a kill
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(
                prefix="making-", dir=database.parent, ignore_cleanup_errors=True
            ) as beside:
                made = Path(beside) / "mlflow.db"
                MlflowClient(f"sqlite:///{made.absolute()}")
                shutil.copy(made, made.with_suffix(".copy"))  # Windows moves no file that is open
                os.replace(made.with_suffix(".copy"), database)
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("SELECT name FROM sqlite_master")


class Tracker:
    """Projects journals into a store on a thread of its own."""

    def __init__(self, uri: str | None = None, warn: Callable[[str], None] | None = None) -> None:
        """Start the thread; the store is opened by it, with the first journal.

        Args:
            warn: told, once, what keeps the store from following while training goes on.
        """
        self.uri = uri or tracking_uri()
        self._warn = warn
        self._queue: queue.Queue[Source | None] = queue.Queue()
        self._behind: dict[str, Exception] = {}
        self._steps = 0
        self._store: Store | None = None
        self._adds_models = True
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def notice(self, source: Source) -> None:
        """Say that a journal or a study has grown; returns at once."""
        self._queue.put(source)

    def close(self, stopped: bool = False) -> None:
        """Wait until the store has caught up.

        Args:
            stopped: by a signal: wait less, and leave the models to `sync`.

        Raises:
            TrackerError: it has not; the journals hold what is missing.
        """
        self._adds_models = not stopped
        self._queue.put(None)
        while True:
            steps = self._steps
            self._thread.join(HASTE_SECONDS if stopped else PATIENCE_SECONDS)
            if stopped or steps == self._steps or not self._thread.is_alive():
                break
        if self._thread.is_alive():
            raise self._unreached("it does not answer")
        if self._behind:
            run_id, error = next(iter(self._behind.items()))
            if isinstance(error, ModuleNotFoundError):
                raise _lacking(error, _SYNC)
            if isinstance(error, TrackerError):
                raise TrackerError(error.wrong, legal=_safe(), mend=error.mend)
            if isinstance(error, HarnessError):  # of the plug-in, asked for its network once more
                raise TrackerError(f"MLflow lacks the model of {run_id}: {error.wrong}", legal=_safe())
            raise self._unreached(_gist(error))

    def _unreached(self, reason: str) -> TrackerError:
        return TrackerError(
            f"MLflow at {_without_password(self.uri)} could not be brought up to date: {reason}.",
            legal=_safe(),
            mend=_advice(self.uri, _SYNC, reason),
        )

    def _work(self) -> None:
        seen: dict[str, Source] = {}
        closing = False
        while not closing:
            waiting, closing = self._take_all()
            for source in waiting:
                seen[source.run_id] = source
                if not self._attempt(Store.project, source) and self._warn and not closing:
                    error = self._behind[source.run_id]
                    if isinstance(error, ModuleNotFoundError):  # for good: the end says so, and what to do
                        continue
                    reason = _gist(error)
                    with contextlib.suppress(OSError):  # of a terminal that is gone: this thread has work to do
                        self._warn(
                            f"MLflow at {_without_password(self.uri)} does not follow: {reason}. Training goes on."
                        )
                    self._warn = None
        for source in seen.values():  # now nothing trains, and what failed may have come back
            if self._attempt(Store.project, source) and self._adds_models:
                self._attempt(Store.add_model, source)

    def _attempt(self, step: Callable[[Store, Source], None], source: Source) -> bool:
        try:
            self._store = self._store or Store(self.uri)
            step(self._store, source)
        except Exception as error:  # whatever mlflow raises: training goes on, the journal has it all
            self._behind[source.run_id] = error
            return False
        self._behind.pop(source.run_id, None)
        self._steps += 1
        return True

    def _take_all(self) -> tuple[list[Source], bool]:
        """Wait for a notice, take all there are, and return the last of each source and whether the end is there."""
        items = [self._queue.get()]
        while not self._queue.empty():
            items.append(self._queue.get())
        return list({item.run_id: item for item in items if item}.values()), None in items


def record_sweep(problem: Problem, trajectories: Sequence[Trajectory]) -> None:
    """Record a learning-rate sweep.

    Raises:
        TrackerError: the store cannot be reached.
    """
    uri = tracking_uri()
    with _reaching(uri, "the same command again"), FileLock(journals.ROOT.absolute() / "backprop.lock"):
        Store(uri).record_sweep(problem, trajectories)


def pull() -> list[Arrival]:
    """Bring finished runs home that the store has and this machine has not.

    Raises:
        TrackerError: the store cannot be reached.
    """
    uri = tracking_uri()
    with _reaching(uri, "python -m harness sync --pull"):
        return [*Store(uri).pull()]


def sync(found: Iterable[Source]) -> int:
    """Bring the store up to `found` and return how many there are; one that cannot be read does not stop the others.

    Raises:
        TrackerError: the store cannot be reached, or a journal cannot be read.
    """
    uri = tracking_uri()
    done, failed = list[Source](), dict[str, Exception]()
    with _reaching(uri):
        from mlflow.exceptions import MlflowException

        store = Store(uri)
        store.experiments()  # a server that is gone shows here, also where there is nothing to bring

        def attempt(step: Callable[[Source], None], source: Source) -> bool:
            watchdog.gets_on()
            try:
                step(source)
            except (MlflowException, ModuleNotFoundError):  # the store is damaged or gone, or mlflow lacks a package
                raise
            except Exception as error:  # whatever a damaged journal leads to
                store.experiments()  # a store may also raise what its database or the network raises
                failed[source.run_id] = error
                return False
            return True

        done = [source for source in found if attempt(store.project, source)]
        for source in done:  # after all else: a model is made by its plug-in, which may break this process
            attempt(store.add_model, source)
    if failed:
        first, count = _gist(next(iter(failed.values()))), len({*failed, *(source.run_id for source in done)})
        raise TrackerError(
            f"{len(failed)} of {count} records could not be brought to MLflow, the first: {first}.",
            legal=f"They are in {journals.ROOT.absolute()}: {', '.join(failed)}.",
            mend="All others are in MLflow. Mend those or move them away, and sync again.",
        )
    return len(done)


def behind(found: Iterable[Source]) -> list[str]:
    """Return the ids of what the store does not hold, or not to its end; what a process is at work on is left out.

    Raises:
        TrackerError: the store cannot be reached.
    """
    uri = tracking_uri()
    with _reaching(uri):
        store = Store(uri)
        store.experiments()  # a server that is gone shows here, also where nothing is recorded
        return [source.run_id for source in found if not store.holds(source)]


def own_database() -> Path | None:
    """Return the file of the store under ``mlruns/``, or None where another store is used."""
    return _database(_own_uri()) if tracking_uri() == _own_uri() else None


@contextlib.contextmanager
def _reaching(uri: str, command: str = _SYNC) -> Iterator[None]:
    try:
        yield
    except HarnessError:
        raise
    except ModuleNotFoundError as error:
        raise _lacking(error, command) from error
    except Exception as error:  # mlflow raises whatever its store raises
        reason = _gist(error)
        raise TrackerError(
            f"MLflow at {_without_password(uri)} cannot be used: {reason}.",
            mend=_advice(uri, command, reason),
        ) from error


_AT_THE_DOOR = {
    "error code 401": (
        "it does not let you in",
        "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to what it knows",
    ),
    "CERTIFICATE_VERIFY_FAILED": (
        "its certificate is not trusted here",
        "Set MLFLOW_TRACKING_SERVER_CERT_PATH to a copy of it, use the name it was made for",
    ),
}
"""By what an error says: why a server cannot be used, and what to do about it before the next try."""


def _lacking(error: ModuleNotFoundError, command: str) -> TrackerError:
    missing = not_installed(error)
    wrong = f"MLflow cannot be used: {missing.wrong}"
    if command != _SYNC:
        return TrackerError(wrong, mend=f"{missing.mend}, and run {command}")
    elsewhere = "copy journal/ and studies/ from there into the mlruns/ of a machine that has it"
    return TrackerError(wrong, legal=_safe(), mend=f"{missing.mend}, or {elsewhere}; then run {command}")


def _advice(uri: str, command: str, reason: str) -> str:
    if uri.startswith("sqlite:"):
        if uri == _own_uri():
            return f"If {_database(uri)} is damaged, python -m harness doctor makes it anew; else run {command}"
        return f"Move {_database(uri)} away if it is damaged, and run {command}"
    mend = dict(_AT_THE_DOOR.values()).get(reason)
    return f"{mend}, and run {command}" if mend else f"When it is back, run {command}"


def _safe() -> str:
    return f"Every result is safe in {journals.ROOT.absolute()}."


def _gist(error: Exception) -> str:
    if re.search("Connection refused|Name or service not known|nodename nor servname|No route to host", str(error)):
        return "nobody answers there"
    for sign, (reason, _) in _AT_THE_DOOR.items():
        if sign in str(error):
            return reason
    if isinstance(error, HarnessError):
        return error.wrong.removesuffix(".")
    return f"{type(error).__name__}: {_without_password(str(error).strip().partition(chr(10))[0][:300])}"


def _tags(record: Record) -> dict[str, str]:
    job = record.job
    return {
        "architecture": job["name"],
        "source_sha256": job["sha256"],
        "protocol": str(job["protocol"]),
        "mlflow.source.name": job["path"],
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": record.started["environment"]["git"],
        "dataset": job["dataset"],
        "verdict": "running",
        **({"imported_from": record.origin["from"]} if record.origin else {}),
    }


def _group(record: Record) -> Any:
    """The seeds it was trained with, of which only some may have come from elsewhere."""
    return None if record.origin else record.started["group"]


def _params(record: Record) -> dict[str, Any]:
    job = record.job
    known = {"seed": job["seed"], "parameters": record.started["parameters"], "device": record.device}
    return {**job["recipe"], **job["knobs"], **known}


def _study_tags(record: StudyRecord) -> dict[str, str]:
    return {
        "architecture": Path(record.search["architecture"]).stem,
        "source_sha256": record.search["architecture_sha256"],
        "study_sha256": record.search["study_sha256"],
        "protocol": str(record.search["protocol"]),
        "dataset": record.search["dataset"],
        "mlflow.source.name": f"studies/{record.search['study']}.py",
        "mlflow.source.type": "LOCAL",
    }


def _study_metrics(record: StudyRecord) -> list[Metric]:
    """The best score so far, by trial."""
    from mlflow.entities import Metric

    best, metrics = 0.0, []
    for trial in record.trials:
        if trial.state == "complete" and trial.value is not None and trial.value > best:
            best = trial.value
            metrics.append(Metric("best/validation_accuracy", best, trial.ended, trial.number))
    now = record.trials[-1].ended if record.trials else record.started
    return metrics + [Metric(f"confirm/{name}", value, now, 0) for name, value in record.confirmation.items()]


def _epoch_metrics(event: Event, held_out: HeldOut) -> list[Metric]:
    from mlflow.entities import Metric

    values = {
        metric.format(held_out=held_out): event[name]
        for name, metric in _EPOCH_METRICS.items()
        if event.get(name) is not None
    }
    return [Metric(key, float(value), event["time"], event["number"]) for key, value in values.items()]


def _final_metrics(record: Record) -> list[Metric]:
    from mlflow.entities import Metric

    ended = record.ended
    assert ended
    values = {
        "test/final_accuracy": ended["accuracy"],
        "test/best_accuracy": ended["best_accuracy"],
        "parameters": record.started["parameters"],
        "seconds": ended["seconds"],
        "wall_seconds": ended.get("wall_seconds"),
        "epochs_to_target": ended["epochs_to_target"],
    }
    return [Metric(key, float(value), ended["time"], 0) for key, value in values.items() if value is not None]


def _write_artifacts(folder: Path, journal: Journal, record: Record) -> None:
    (folder / f"{journals.plain(record.job['name'])}.py").write_bytes(journal.source.encode())
    (folder / "ledger.json").write_text(json.dumps(record.started["ledger"], indent=1), encoding="utf-8")
    (folder / "journal.jsonl").write_bytes(journal.events_file.read_bytes())
    if (journal.folder / journals.PROFILE).exists():
        shutil.copy(journal.folder / journals.PROFILE, folder)
    figures = folder / "figures"
    figures.mkdir()
    if record.epochs:
        target = BUDGET.accuracy if record.started["is_benchmark"] else None
        plots.learning_curves(record.epochs, record.name, target).savefig(figures / "learning_curves.png")
    if record.state == "finished":
        shutil.copy(journal.folder / journals.OUTCOME, folder)
        outcome = journal.outcome()
        counts = confusion(outcome.answers, outcome.labels)
        plots.confusion_matrix(counts, record.name).savefig(figures / "confusion.png")
        plots.hardest_images(outcome).savefig(figures / "most_confidently_wrong.png")


def _write_study_artifacts(folder: Path, record: StudyRecord) -> None:
    title = f"{record.search['study']} on {record.search['dataset']}"
    for name, figure in plots.study(record.trials, record.importances, title).items():
        figure.savefig(folder / f"{name}.png")
    (folder / "trials.json").write_text(json.dumps([asdict(trial) for trial in record.trials]), encoding="utf-8")


def _write_sweep_artifacts(folder: Path, problem: Problem, trajectories: Sequence[Trajectory]) -> None:
    title = f"2-2-2 network, targets {problem.targets[0]:g} and {problem.targets[1]:g}"
    plots.sweep_losses(trajectories, title).savefig(folder / "loss.png")
    plots.sweep_weights(trajectories, title).savefig(folder / "weights.png")
    with open(folder / "steps.csv", "w", newline="", encoding="utf-8") as file:
        write_csv(file, trajectories)


def _write_model(folder: Path, journal: Journal, record: Record) -> None:
    """Save the scored network as an exported graph: loading it runs none of the plug-in's code."""
    import mlflow.pytorch
    from mlflow.models import infer_signature

    architecture = plugins.from_source(journal.source, record.job["path"])
    network = plugins.build_network(architecture, record.job["knobs"])
    weights = journal.weights()
    network.eval()
    images = torch.zeros(2, 1, 28, 28)  # two: an example of one would freeze the batch at one
    with torch.no_grad():
        for name, tensor in (*network.named_parameters(), *network.named_buffers()):
            tensor.copy_(weights[name])  # load_state_dict would leave out buffers that are not persistent
        answers = network(images)
    mlflow.pytorch.save_model(
        network,
        str(folder),
        signature=infer_signature(images.numpy(), answers.numpy()),
        input_example=images.numpy(),
        pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}", f"numpy=={np.__version__}"],
        serialization_format="pt2",
    )
