"""One small client of MLflow: runs found, begun, logged and ended. Beside `artifacts`, all that calls mlflow."""

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
"""Tags: the id of the record behind a run, and whether the run says all that the record does."""

_BATCH = 1_000  # the most metrics mlflow takes at a time
_KIND = ("mlflow.experimentKind", "custom_model_development")  # the UI's view for training rather than for chat


class Point(NamedTuple):
    """One value of a metric, at a time (milliseconds since 1970) and a step."""

    name: str
    value: float
    time: int
    step: int = 0


class Client:
    """An MLflow tracking store, local or remote.

    Attributes:
        sent: by run, how many epochs were logged by this client.
    """

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
        """MLflow keeps artifacts by absolute path: a copy would write into the folder it was copied from."""
        for experiment in self._client.search_experiments():
            place = Path(url2pathname(urlsplit(experiment.artifact_location).path))
            if experiment.name != "Default" and place.resolve() != _artifacts(experiment.name).resolve():
                raise TrackerError(
                    f"{database_of(own_uri())} was moved or copied here, and would write artifacts to {place}.",
                    hint="python -m harness doctor makes it anew from the journals.",
                )

    # --- experiments ---

    def experiments(self) -> dict[str, str]:
        """Return the names and ids of the experiments that hold runs of ours, the newest first."""
        found = self._client.search_experiments(order_by=["last_update_time DESC"])
        return {experiment.name: experiment.experiment_id for experiment in found if experiment.name != "Default"}

    def experiment(self, name: str, note: str) -> str:
        """Return the id of an experiment, which is made, with a note, if there is none."""
        if name not in self._experiments:
            found = self._client.get_experiment_by_name(name)
            if found is not None and found.lifecycle_stage == "deleted":
                self._client.restore_experiment(found.experiment_id)
            self._experiments[name] = found.experiment_id if found else self._create(name, note)
        return self._experiments[name]

    def _create(self, name: str, note: str) -> str:
        from mlflow.exceptions import MlflowException

        tags = dict([_KIND, ("mlflow.note.content", note)])
        # Left to itself, a local store puts artifacts into the folder of the process that came first.
        place = _artifacts(name).as_uri() if self._is_local else None
        try:
            return str(self._client.create_experiment(name, artifact_location=place, tags=tags))
        except MlflowException:  # another process made it in between
            found = self._client.get_experiment_by_name(name)
            if found is None:
                raise
            return str(found.experiment_id)

    # --- runs found ---

    def find(self, experiment: str, tag: str, value: str) -> Run | None:
        """Return the run whose `tag` is `value`, if there is one."""
        found = self._client.search_runs([experiment], filter_string=f"tags.`{tag}` = '{value}'", max_results=1)
        return found[0] if found else None

    def look_up(self, name: str, run_id: str) -> Run | None:
        """Return the run of a record in an experiment, which is not made if there is none."""
        found = self._client.get_experiment_by_name(name)
        return self.find(found.experiment_id, RUN_ID, run_id) if found else None

    def search(self, experiment: str, filter_string: str) -> Iterator[Run]:
        """Yield all runs that a filter of mlflow's lets through."""
        token: str | None = None
        while token != "":
            part = self._client.search_runs([experiment], filter_string, max_results=_BATCH, page_token=token)
            yield from part
            token = part.token or ""

    def children(self, experiment: str, parent: str) -> list[Run]:
        """Return the runs under a parent."""
        return [*self.search(experiment, f"tags.`mlflow.parentRunId` = '{parent}'")]

    # --- runs written ---

    def begin(
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

    def log(self, run_id: str, points: Sequence[Point] = (), tags: Mapping[str, str] | None = None) -> None:
        """Add values of metrics, and set tags."""
        from mlflow.entities import Metric, RunTag

        metrics = [Metric(point.name, point.value, point.time, point.step) for point in points]
        for first in range(0, len(metrics), _BATCH):
            self._client.log_batch(run_id, metrics=metrics[first : first + _BATCH])
        if tags:
            self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def log_files(self, run_id: str, write: Callable[[Path], None]) -> None:
        """Keep what `write` puts into a folder with a run."""
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            self._client.log_artifacts(run_id, folder)

    def log_dataset(self, run: Run, name: str, digest: str) -> None:
        """Say which dataset a run is trained on, unless it is said."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        if not (run.inputs and run.inputs.dataset_inputs):
            source = json.dumps({"dataset": name, "sha256": digest})
            dataset = Dataset(name, digest[:36], "local", source)  # 36 characters are the most mlflow takes
            tags = [InputTag("mlflow.data.context", "training")]
            self._client.log_inputs(run.info.run_id, [DatasetInput(dataset, tags)])

    def end(self, run_id: str, status: str, time: int | None = None) -> None:
        """End a run, now unless a time is given."""
        self._client.set_terminated(run_id, status, end_time=time)

    def reopen(self, run_id: str) -> None:
        """Let a run that has ended be running again."""
        self._client.update_run(run_id, status="RUNNING")

    def drop_tag(self, run: Run, name: str) -> None:
        """Take a tag from a run that has it."""
        if name in run.data.tags:
            self._client.delete_tag(run.info.run_id, name)

    def delete(self, runs: Sequence[str]) -> None:
        """Delete runs."""
        for run_id in runs:
            self._client.delete_run(run_id)

    # --- files ---

    def files(self, run_id: str) -> list[str]:
        """Return the paths of what is kept with a run, the top level alone."""
        return [artifact.path for artifact in self._client.list_artifacts(run_id)]

    def download(self, run_id: str, file: str, folder: str) -> Path:
        """Fetch a file that is kept with a run."""
        return Path(self._client.download_artifacts(run_id, file, folder))


def is_complete(run: Run) -> bool:
    """Whether a run says all that its record does."""
    return bool(run.data.tags.get(COMPLETE) == "true")


def _artifacts(experiment: str) -> Path:
    return journals.ROOT.absolute() / "artifacts" / experiment
