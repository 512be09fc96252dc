"""Journals to MLflow runs: the only room that knows mlflow, and it loads it with the first store.

MLflow is a projection. `Store.project` reads a journal and makes the store say the same; doing it
twice changes nothing, doing it later keeps the original times. `Tracker` does so on a thread of its
own while training runs, so that a store that is slow, down or lost costs the training nothing.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import sqlite3
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness import journal as journals
from harness import plots, plugins
from harness.errors import TrackerError
from harness.evaluation import confusion, softmax, verdict
from harness.journal import Event, Journal
from harness.spec import BUDGET
from harness.statistics import summarise

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

PATIENCE_SECONDS = 60.0
"""How long the end of a command waits for the store to catch up."""

_STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED", "diverged": "FAILED"}
_EPOCH_METRICS = {
    "train_loss": "train/loss",
    "train_accuracy": "train/accuracy",
    "test_loss": "test/loss",
    "test_accuracy": "test/accuracy",
    "lr": "lr",
    "seconds": "epoch_seconds",
    "images_per_second": "images_per_second",
}


def tracking_uri() -> str:
    """Return ``$MLFLOW_TRACKING_URI``, else the SQLite store under ``mlruns/``, by absolute path."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{journals.ROOT.absolute() / 'mlflow.db'}"


class Store:
    """An MLflow tracking store, local or remote."""

    def __init__(self, uri: str) -> None:
        """Connect; a local store is made on first use.

        Raises:
            TrackerError: mlflow is not installed.
        """
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise TrackerError(
                "MLflow is not installed here.", mend="The run is safe in mlruns/journal/; `sync` it where MLflow is."
            ) from error
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        self.uri = uri
        self._experiments: dict[str, str] = {}
        if uri.startswith("sqlite:///"):
            _make_schema(uri)
        self._client = MlflowClient(uri)

    def project(self, journal: Journal) -> None:
        """Bring the store up to `journal`: idempotent, with the journal's own times."""
        events = list(journal.events())
        if not events:
            return
        started, last = events[0], events[-1]
        run = self._find(started, journal.run_id)
        if run is not None and run.data.tags.get("harness.projected") == last["event"] != "epoch":
            return
        run_id = run.info.run_id if run else self._create(started, journal)
        epochs = [event for event in events if event["event"] == "epoch"]
        metrics = [metric for event in epochs for metric in _epoch_metrics(event)]
        if last["event"] == "finished":
            metrics += _final_metrics(started, last)
        self._log(run_id, metrics)
        if last["event"] in ("finished", "failed"):
            self._close(run_id, journal, started, epochs, last)

    def _find(self, started: Event, harness_run_id: str) -> Run | None:
        found = self._client.search_runs(
            [self._experiment(started["job"]["dataset"])],
            filter_string=f"tags.`harness.run_id` = '{harness_run_id}'",
            max_results=1,
        )
        return found[0] if found else None

    def _experiment(self, name: str) -> str:
        if name not in self._experiments:
            found = self._client.get_experiment_by_name(name)
            if found is not None and found.lifecycle_stage == "deleted":
                self._client.restore_experiment(found.experiment_id)
            self._experiments[name] = found.experiment_id if found else self._create_experiment(name)
        return self._experiments[name]

    def _create_experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        local = (journals.ROOT.absolute() / "artifacts" / name).as_uri() if self.uri.startswith("sqlite:") else None
        try:
            return self._client.create_experiment(name, artifact_location=local)
        except MlflowException:  # another process made it in between
            found = self._client.get_experiment_by_name(name)
            if found is None:
                raise
            return found.experiment_id

    def _create(self, started: Event, journal: Journal) -> str:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        job = started["job"]
        tags = _tags(started) | {"harness.run_id": journal.run_id, "mlflow.note.content": _description(started, [], None)}
        if started["group"]:
            tags["mlflow.parentRunId"] = self._parent(started)
        experiment = self._experiment(job["dataset"])
        run = self._client.create_run(experiment, start_time=started["time"], run_name=run_name(job), tags=tags)
        params = _params(started)
        self._client.log_batch(run.info.run_id, params=[Param(k, str(v)) for k, v in params.items()])
        dataset = Dataset(job["dataset"], job["dataset_digest"][:36], "local", json.dumps({"name": job["dataset"]}))
        self._client.log_inputs(run.info.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
        return str(run.info.run_id)

    def _log(self, run_id: str, metrics: Sequence[Metric]) -> None:
        for first in range(0, len(metrics), 1000):  # the most a batch may hold
            self._client.log_batch(run_id, metrics=metrics[first : first + 1000])

    def _close(self, run_id: str, journal: Journal, started: Event, epochs: list[Event], last: Event) -> None:
        from mlflow.entities import RunTag

        tags = {"mlflow.note.content": _description(started, epochs, last), "verdict": _verdict_line(started, last)}
        if last["event"] == "failed":
            tags["reason"] = last["reason"]
        with tempfile.TemporaryDirectory() as folder:
            _write_artifacts(Path(folder), journal, started, epochs, last)
            self._client.log_artifacts(run_id, folder)
        self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        status = _STATUS[last.get("state", "finished")]
        self._client.set_terminated(run_id, status, end_time=last["time"])
        if started["group"]:
            self._sum_up(started, last["time"])
        self._client.set_tag(run_id, "harness.projected", last["event"])

    # --- several seeds under one parent ---

    def _parent(self, started: Event) -> str:
        from mlflow.entities import Param

        group, job = started["group"], started["job"]
        found = self._client.search_runs(
            [self._experiment(job["dataset"])], filter_string=f"tags.`harness.group_parent` = '{group['id']}'"
        )
        if found:
            return str(found[0].info.run_id)
        tags = _tags(started) | {"harness.group_parent": group["id"]}
        name = f"{_title(job)} {group['size']} seeds"
        experiment = self._experiment(job["dataset"])
        run = self._client.create_run(experiment, start_time=started["time"], run_name=name, tags=tags)
        params = {key: value for key, value in _params(started).items() if key != "seed"}
        self._client.log_batch(run.info.run_id, params=[Param(key, str(value)) for key, value in params.items()])
        return str(run.info.run_id)

    def _sum_up(self, started: Event, time: int) -> None:
        """Give the parent mean, spread and interval over the children that have ended so far."""
        from mlflow.entities import Metric, RunTag

        group, experiment = started["group"], self._experiment(started["job"]["dataset"])
        parent = self._parent(started)
        children = self._client.search_runs([experiment], filter_string=f"tags.`mlflow.parentRunId` = '{parent}'")
        ended = [child for child in children if child.info.status in _STATUS.values()]
        scores = {
            int(child.data.params["seed"]): child.data.metrics["test/final_accuracy"]
            for child in ended
            if child.info.status == "FINISHED" and "test/final_accuracy" in child.data.metrics
        }
        if scores:
            summary = summarise(list(scores.values()))
            values = {
                "n": summary.n,
                "test/final_accuracy": summary.mean,
                "test/final_accuracy_std": summary.std,
                "test/final_accuracy_low95": summary.low,
                "test/final_accuracy_high95": summary.high,
                "parameters": started["parameters"],
            }
            metrics = [Metric(key, value, time, summary.n) for key, value in values.items() if value is not None]
            self._client.log_batch(parent, metrics=metrics)
            rows = "\n".join(f"| {seed} | {100 * scores[seed]:.2f} % |" for seed in sorted(scores))
            spread = f" ± {100 * summary.std:.3f} (standard deviation)" if summary.std is not None else ""
            interval = (
                f", 95 % interval of the mean {100 * summary.low:.2f} to {100 * summary.high:.2f} %"
                if summary.low is not None and summary.high is not None
                else ""
            )
            head = f"Mean test accuracy after the last epoch: **{100 * summary.mean:.3f} %**{spread}{interval}, n = {summary.n}."
            note = f"{head}\n\n| seed | accuracy |\n|--:|--:|\n{rows}\n"
            self._client.log_batch(parent, tags=[RunTag("mlflow.note.content", note)])
        if len(ended) == group["size"]:
            status = "FINISHED" if len(scores) == group["size"] else "FAILED"
            self._client.set_terminated(parent, status, end_time=time)


def _make_schema(uri: str) -> None:
    """Open the local store under an exclusive lock: of several first opens at once all but one would crash."""
    from filelock import FileLock
    from mlflow import MlflowClient

    database = Path(uri.removeprefix("sqlite:///"))
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(database.with_suffix(".lock")):
        try:
            MlflowClient(uri).search_experiments(max_results=1)
        except sqlite3.Error as error:  # pragma: no cover - mlflow wraps most of them
            raise TrackerError(f"The store {database} cannot be opened: {error}") from error


class Tracker:
    """Projects journals into a store on a thread of its own."""

    def __init__(self, uri: str | None = None) -> None:
        self.uri = uri or tracking_uri()
        self._queue: queue.Queue[Journal | None] = queue.Queue()
        self._behind: dict[str, Exception] = {}
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def notice(self, journal: Journal) -> None:
        """Say that `journal` has grown; returns at once."""
        self._queue.put(journal)

    def close(self) -> None:
        """Wait until the store has caught up.

        Raises:
            TrackerError: it has not; the journals hold what is missing.
        """
        self._queue.put(None)
        self._thread.join(PATIENCE_SECONDS)
        if self._thread.is_alive():
            raise self._unreached("it does not answer")
        if self._behind:
            raise self._unreached(_gist(next(iter(self._behind.values()))))

    def _unreached(self, reason: str) -> TrackerError:
        return TrackerError(
            f"The result is safe in {journals.journals()}, but MLflow at {self.uri} could not be brought up to it: {reason}.",
            mend="When it is back, run: python -m harness sync",
        )

    def _work(self) -> None:
        store: Store | None = None
        closing = False
        while not closing:
            waiting = {}
            item = self._queue.get()
            while True:  # several notices of one journal are one piece of work
                if item is None:
                    closing = True
                else:
                    waiting[item.run_id] = item
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            for run_id, journal in waiting.items():
                try:
                    store = store or Store(self.uri)
                    store.project(journal)
                    self._behind.pop(run_id, None)
                except Exception as error:  # whatever mlflow raises: training goes on, the journal has it all
                    self._behind[run_id] = error


def sync(uri: str | None = None) -> int:
    """Bring a store up to all journals; return how many there are.

    Raises:
        TrackerError: the store cannot be reached.
    """
    found = journals.all_journals()
    try:
        store = Store(uri or tracking_uri())
        for journal in found:
            store.project(journal)
    except TrackerError:
        raise
    except Exception as error:
        raise TrackerError(
            f"MLflow at {uri or tracking_uri()} could not be reached: {_gist(error)}.",
            mend="Nothing is lost: the journals keep it all. Run sync again when it is back.",
        ) from error
    return len(found)


def _gist(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"


# --- what a run says ------------------------------------------------------------------------------------


def _title(job: dict[str, Any]) -> str:
    """Return the architecture's name and those knobs that are not at their default."""
    changed = [f"{name}={value}" for name, value in job["knobs"].items() if value != job["default_knobs"].get(name)]
    return " ".join([job["name"], *changed])


def run_name(job: dict[str, Any]) -> str:
    """Return what a person looks for: ``s6_gap width=12 seed 0``."""
    return f"{_title(job)} seed {job['seed']}"


def _tags(started: Event) -> dict[str, str]:
    job = started["job"]
    return {
        "architecture": job["name"],
        "source_sha256": job["sha256"],
        "protocol": str(job["protocol"]),
        "git_commit": started["environment"]["git"],
        "dataset": job["dataset"],
        "verdict": "running",
    }


def _params(started: Event) -> dict[str, Any]:
    job = started["job"]
    known = {"seed": job["seed"], "parameters": started["parameters"], "device": started["environment"]["device"]}
    return {**job["recipe"], **job["knobs"], **known}


def _epoch_metrics(event: Event) -> list[Metric]:
    from mlflow.entities import Metric

    values = {metric: event[name] for name, metric in _EPOCH_METRICS.items() if event.get(name) is not None}
    return [Metric(key, float(value), event["time"], event["number"]) for key, value in values.items()]


def _final_metrics(started: Event, finished: Event) -> list[Metric]:
    from mlflow.entities import Metric

    values = {
        "test/final_accuracy": finished["accuracy"],
        "test/best_accuracy": finished["best_accuracy"],
        "parameters": started["parameters"],
        "seconds": finished["seconds"],
        "epochs_to_target": finished["epochs_to_target"],
    }
    return [Metric(key, float(value), finished["time"], 0) for key, value in values.items() if value is not None]


def _targets(started: Event, finished: Event) -> list[Any]:
    job = started["job"]
    epochs = job["recipe"]["epochs"]
    return verdict(started["parameters"], epochs, finished["accuracy"], BUDGET, started["is_benchmark"])


def _verdict_line(started: Event, last: Event) -> str:
    if last["event"] == "failed":
        return str(last["state"])
    targets = _targets(started, last)
    missed = [target.name for target in targets if not target.met]
    if missed:
        return f"missed: {', '.join(missed)}"
    return f"all {len(targets)} targets met"


def _description(started: Event, epochs: Sequence[Event], last: Event | None) -> str:
    """Return the run's page in Markdown: verdict, curve, layer table."""
    job, anatomy = started["job"], started["anatomy"]
    parts = [f"**{run_name(job)}** on {job['dataset']}, {started['environment']['device']}, protocol {job['protocol']}."]
    if last and last["event"] == "finished":
        rows = [f"| {t.name} | {t.reached} | {t.limit} | {'met' if t.met else '**missed**'} |" for t in _targets(started, last)]
        parts += [
            f"### Score: {100 * last['accuracy']:.2f} % after the last epoch",
            f"Best epoch {last['best_epoch']}: {100 * last['best_accuracy']:.2f} % (picked on the test set; never ranks).",
            "| target | reached | limit | |\n|---|--:|---|---|\n" + "\n".join(rows),
        ]
    elif last:
        parts.append(f"### {last['state']}: {last['reason']}")
    if epochs:
        rows = [
            f"| {e['number']} | {e['train_loss']:.4f} | {e['test_loss']:.4f} | {100 * e['test_accuracy']:.2f} | {e['lr']:.2g} |"
            for e in epochs
        ]
        parts.append("### Curve\n| epoch | train loss | test loss | test accuracy (%) | lr |\n|--:|--:|--:|--:|--:|\n" + "\n".join(rows))
    rows = [f"| {r['name']} | {r['kind']} | {r['output']} | {r['parameters']:,} |" for r in anatomy["layers"]]
    used = ", ".join(f"{part}: {'yes' if on else 'no'}" for part, on in anatomy["uses"].items())
    parts += [
        "### Layers\n| layer | kind | output | parameters |\n|---|---|---|--:|\n" + "\n".join(rows),
        f"{started['parameters']:,} parameters, {anatomy['multiply_adds']:,} multiply-adds, "
        f"receptive field {anatomy['receptive_field']} pixels. {used}.",
    ]
    return "\n\n".join(parts)


# --- artifacts ------------------------------------------------------------------------------------------


def _write_artifacts(folder: Path, journal: Journal, started: Event, epochs: list[Event], last: Event) -> None:
    job = started["job"]
    (folder / f"{job['name']}.py").write_text(journal.source, encoding="utf-8")
    (folder / "ledger.json").write_text(json.dumps(started["ledger"], indent=1), encoding="utf-8")
    (folder / "journal.jsonl").write_text((journal.folder / "events.jsonl").read_text(encoding="utf-8"), encoding="utf-8")
    figures = folder / "figures"
    figures.mkdir()
    if epochs:
        target = BUDGET.accuracy if started["is_benchmark"] else None
        plots.learning_curves(epochs, run_name(job), target).savefig(figures / "learning_curves.png")
    if last["event"] == "finished":
        arrays = journal.arrays()
        np.savez_compressed(folder / "test_logits.npz", logits=arrays["logits"], labels=arrays["labels"])
        counts = confusion(arrays["logits"], arrays["labels"])
        plots.confusion_matrix(counts, f"{run_name(job)}: {last['accuracy']:.2%}").savefig(figures / "confusion.png")
        _hardest(arrays).savefig(figures / "most_confidently_wrong.png")
        _write_model(folder / "model", journal, job)


def _hardest(arrays: dict[str, np.ndarray]) -> Any:
    wrong = arrays["hardest"]
    logits = arrays["logits"][wrong]
    confidence = softmax(logits).max(1) if len(wrong) else np.zeros(0)
    return plots.hardest_images(arrays["images"], arrays["labels"][wrong], logits.argmax(1), confidence, wrong)


def _write_model(folder: Path, journal: Journal, job: dict[str, Any]) -> None:
    """Save the scored network as an exported graph: loading it runs none of the plug-in's code."""
    import mlflow.pytorch
    from mlflow.models import infer_signature

    architecture = plugins.from_source(journal.source, job["path"])
    network = plugins.build_network(architecture, job["knobs"])
    network.load_state_dict(journal.weights())
    network.eval()
    images = torch.zeros(2, 1, 28, 28)  # two: an example of one would freeze the batch at one
    with torch.no_grad():
        answers = network(images)
    mlflow.pytorch.save_model(
        network,
        str(folder),
        signature=infer_signature(images.numpy(), answers.numpy()),
        input_example=images.numpy(),
        pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}", f"numpy=={np.__version__}"],
        serialization_format="pt2",
    )
