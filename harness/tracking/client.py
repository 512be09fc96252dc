"""A small MLflow client: finds, creates, logs and ends runs. Only `connection` and `artifacts` call mlflow besides."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

from harness import journal as journals
from harness.errors import TrackerError
from harness.tracking.connection import database_of, own_uri, prepare

if TYPE_CHECKING:
    from mlflow.entities import Run

RUN_ID, COMPLETE = "harness.run_id", "harness.complete"
"""Tags: the id of the record behind a run, and whether the run holds all of that record."""

_BATCH = 1_000  # the most metrics that mlflow accepts in one call
_KIND = ("mlflow.experimentKind", "custom_model_development")  # selects the UI's view for training rather than for chat


class Point(NamedTuple):
    """One value of a metric, with its time (milliseconds since 1970) and its step."""

    name: str
    value: float
    time: int
    step: int = 0


class Client:
    """An MLflow tracking store, local or remote.

    Attributes:
        sent: number of epochs that this client has logged, by run.
    """

    def __init__(self, uri: str) -> None:
        """Connect to a store; a local one is created on first use.

        Raises:
            ModuleNotFoundError: mlflow is not installed.
            TrackerError: the local store was created for another folder.
        """
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # With mlflow's own defaults one call to a server that is down blocks for four minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # errors are raised as well
        self.uri = uri
        self.sent: dict[str, int] = {}
        self._is_local = uri.startswith("sqlite:")
        self._experiments: dict[str, str] = {}
        if self._is_local:
            prepare(database_of(uri))
        self._client = MlflowClient(uri)
        if uri == own_uri():
            self._refuse_moved()

    def _refuse_moved(self) -> None:
        """Refuse a copied store: MLflow keeps absolute paths, so it would write into the first one's folder."""
        for experiment in self._client.search_experiments():
            place = Path(url2pathname(urlsplit(experiment.artifact_location).path))
            if experiment.name != "Default" and place.resolve() != _artifacts(experiment.name).resolve():
                raise TrackerError(
                    f"{database_of(own_uri())} was moved or copied here, and would write artifacts to {place}.",
                    hint="python -m harness doctor rebuilds it from the journals.",
                )

    # --- experiments ---

    def experiments(self) -> dict[str, str]:
        """Return the experiments of the store but MLflow's default one, name to id, most recently updated first."""
        found = self._client.search_experiments(order_by=["last_update_time DESC"])
        return {experiment.name: experiment.experiment_id for experiment in found if experiment.name != "Default"}

    def experiment(self, name: str, note: str) -> str:
        """Return the id of an experiment; create it with a note if there is none."""
        if name not in self._experiments:
            found = self._client.get_experiment_by_name(name)
            if found is not None and found.lifecycle_stage == "deleted":
                self._client.restore_experiment(found.experiment_id)
            self._experiments[name] = found.experiment_id if found else self._create(name, note)
        return self._experiments[name]

    def _create(self, name: str, note: str) -> str:
        from mlflow.exceptions import MlflowException

        tags = dict([_KIND, ("mlflow.note.content", note)])
        # By default a local store puts artifacts into the working directory of the process that creates it.
        place = _artifacts(name).as_uri() if self._is_local else None
        try:
            return str(self._client.create_experiment(name, artifact_location=place, tags=tags))
        except MlflowException:  # another process created it in between
            found = self._client.get_experiment_by_name(name)
            if found is None:
                raise
            return str(found.experiment_id)

    # --- finding runs ---

    def find(self, experiment: str, tag: str, value: str) -> Run | None:
        """Return a run whose `tag` is `value`, or None."""
        found = self._client.search_runs([experiment], filter_string=f"tags.`{tag}` = '{value}'", max_results=1)
        return found[0] if found else None

    def look_up(self, name: str, run_id: str) -> Run | None:
        """Return the run of a record, or None; creates neither run nor experiment."""
        found = self._client.get_experiment_by_name(name)
        return self.find(found.experiment_id, RUN_ID, run_id) if found else None

    def search(self, experiment: str, filter_string: str) -> Iterator[Run]:
        """Yield all runs that match an mlflow filter."""
        token: str | None = None
        while token != "":
            part = self._client.search_runs([experiment], filter_string, max_results=_BATCH, page_token=token)
            yield from part
            token = part.token or ""

    def children(self, experiment: str, parent: str) -> list[Run]:
        """Return the child runs of a parent run."""
        return [*self.search(experiment, f"tags.`mlflow.parentRunId` = '{parent}'")]

    # --- writing runs ---

    def begin(
        self,
        experiment: str,
        time: int,
        name: str,
        tags: Mapping[str, str],
        params: Mapping[str, Any],
        known: Run | None = None,
    ) -> Run:
        """Return a run, created if not `known`, and add the params that it lacks: a server may die between the two."""
        from mlflow.entities import Param

        run = known or self._client.create_run(experiment, time, dict(tags), name)
        missing = [Param(key, str(value)) for key, value in params.items() if key not in run.data.params]
        if missing:
            self._client.log_batch(run.info.run_id, params=missing)
        return run

    def log(self, run_id: str, points: Sequence[Point] = (), tags: Mapping[str, str] | None = None) -> None:
        """Add values of metrics, and set tags."""
        from mlflow.entities import Metric, RunTag

        metrics = [Metric(point.name, point.value, point.time, point.step) for point in points]
        for first in range(0, len(metrics), _BATCH):
            self._client.log_batch(run_id, metrics=metrics[first : first + _BATCH])
        if tags:
            self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def log_files(self, run_id: str, write: Callable[[Path], None]) -> None:
        """Log the files that `write` puts into a folder."""
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            self._client.log_artifacts(run_id, folder)

    def log_dataset(self, run: Run, name: str, digest: str) -> None:
        """Log the dataset of a run, unless one is logged already."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        if not (run.inputs and run.inputs.dataset_inputs):
            source = json.dumps({"dataset": name, "sha256": digest})
            dataset = Dataset(name, digest[:36], "local", source)  # mlflow accepts at most 36 characters
            tags = [InputTag("mlflow.data.context", "training")]
            self._client.log_inputs(run.info.run_id, [DatasetInput(dataset, tags)])

    def end(self, run_id: str, status: str, time: int | None = None) -> None:
        """End a run, at `time` (milliseconds since 1970) or now."""
        self._client.set_terminated(run_id, status, end_time=time)

    def reopen(self, run_id: str) -> None:
        """Set an ended run back to running."""
        self._client.update_run(run_id, status="RUNNING")

    def drop_tag(self, run: Run, name: str) -> None:
        """Delete a tag of a run, if the run has it."""
        if name in run.data.tags:
            self._client.delete_tag(run.info.run_id, name)

    def delete(self, runs: Sequence[str]) -> None:
        """Delete runs by id."""
        for run_id in runs:
            self._client.delete_run(run_id)

    # --- files ---

    def files(self, run_id: str) -> list[str]:
        """Return the paths of a run's artifacts, top level only."""
        return [artifact.path for artifact in self._client.list_artifacts(run_id)]

    def download(self, run_id: str, file: str, folder: str) -> Path:
        """Download an artifact of a run into `folder` and return its path."""
        return Path(self._client.download_artifacts(run_id, file, folder))


def is_complete(run: Run) -> bool:
    """Return whether a run holds all of its record."""
    return bool(run.data.tags.get(COMPLETE) == "true")


def _artifacts(experiment: str) -> Path:
    return journals.ROOT.absolute() / "artifacts" / experiment
