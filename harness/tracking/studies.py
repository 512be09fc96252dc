"""A study in MLflow: one parent run for the study, one child run for each trial."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.events import StudyRecord, Trial
from harness.tracking.artifacts import write_study
from harness.tracking.client import COMPLETE, RUN_ID, Client, Point
from harness.tracking.runs import points_of_epoch
from harness.tracking.study_notes import STUDY_NOTE, study_line, study_markdown

if TYPE_CHECKING:
    from mlflow.entities import Run

_STATUS = {
    "complete": "FINISHED",
    "pruned": "KILLED",
    "infeasible": "KILLED",
    "diverged": "FAILED",
    "failed": "FAILED",
}


def tags_of(record: StudyRecord) -> dict[str, str]:
    """Return the tags of a study and of its trials."""
    return {
        "architecture": Path(record.search["architecture"]).stem,
        "source_sha256": record.search["architecture_sha256"],
        "study_sha256": record.search["study_sha256"],
        "protocol": str(record.search["protocol"]),
        "dataset": record.search["dataset"],
        "mlflow.source.name": f"studies/{record.search['study']}.py",
        "mlflow.source.type": "LOCAL",
    }


def points_of(record: StudyRecord) -> list[Point]:
    """Return the metrics of a study: the best score so far, by trial, and the confirmation."""
    best, points = 0.0, []
    for trial in record.trials:
        if trial.state == "complete" and trial.value is not None and trial.value > best:
            best = trial.value
            points.append(Point("best/validation_accuracy", best, trial.ended, trial.number))
    now = record.trials[-1].ended if record.trials else record.started
    return points + [Point(f"confirm/{name}", value, now) for name, value in record.confirmation.items()]


def sync_study(client: Client, record: StudyRecord) -> None:
    """Add to MLflow what it lacks of a study and its trials."""
    search = record.search
    experiment = client.experiment(_experiment(record), STUDY_NOTE)
    known = client.find(experiment, RUN_ID, record.run_id)
    if known and known.data.tags.get(COMPLETE) == _version(record):
        return
    name = f"{search['study']} seed {search['seed']}"
    own = {**tags_of(record), RUN_ID: record.run_id}
    parent = str(client.begin(experiment, record.started, name, own, search, known).info.run_id)
    children = {run.data.tags[RUN_ID]: run for run in client.children(experiment, parent)}
    for trial in record.trials:
        tag = f"{record.run_id}/{trial.number}"
        if tag not in children or children[tag].info.status == "RUNNING":
            _record_trial(client, experiment, parent, record, trial, children.get(tag))
    client.log(parent, points_of(record))
    tags = {"mlflow.note.content": study_markdown(record), "verdict": study_line(record)}
    if record.state == "finished":
        client.log_files(parent, lambda folder: write_study(folder, record))
        client.log(parent, tags={**tags, COMPLETE: _version(record)})
        client.end(parent, "FINISHED", max(trial.ended for trial in record.trials))
        return
    client.log(parent, tags=tags)
    if record.state == "running":
        client.reopen(parent)
    else:
        client.end(parent, "KILLED")


def is_study_current(client: Client, record: StudyRecord) -> bool:
    """Return whether the store holds all of a study; True for a study that is still running."""
    run = client.look_up(_experiment(record), record.run_id)
    if record.state == "finished":
        return run is not None and run.data.tags.get(COMPLETE) == _version(record)
    return record.state == "running" or (run is not None and run.info.status == "KILLED")


def _record_trial(
    client: Client, experiment: str, parent: str, record: StudyRecord, trial: Trial, known: Run | None
) -> None:
    tags = {
        **tags_of(record),
        RUN_ID: f"{record.run_id}/{trial.number}",
        "mlflow.parentRunId": parent,
        "verdict": trial.state,
        "reason": trial.reason,
    }
    params = {**trial.settings, "parameters": trial.parameters}
    run_id = client.begin(experiment, trial.started, f"trial {trial.number}", tags, params, known).info.run_id
    points = [point for epoch in trial.epochs for point in points_of_epoch(epoch, trial.ended, "validation")]
    client.log(run_id, points)
    client.end(run_id, _STATUS[trial.state], trial.ended)


def _experiment(record: StudyRecord) -> str:
    return f"tune/{record.search['dataset']}/{record.search['study']}"


def _version(record: StudyRecord) -> str:
    return f"{len(record.trials)} trials{', confirmed' if record.confirmation else ''}"
