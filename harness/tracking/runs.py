"""A run in MLflow: its tags, params and metrics as plain values, and how missing ones are added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from harness.events import Epoch
from harness.journal import DAMAGE, FinishedRun, Journal, Origin, Record, RunStart
from harness.spec import Group, HeldOut
from harness.statistics import summarise
from harness.tracking.artifacts import write_model, write_run
from harness.tracking.client import COMPLETE, RUN_ID, Client, Point, is_complete
from harness.tracking.notes import EXPERIMENT_NOTE, group_markdown, markdown, verdict_line

if TYPE_CHECKING:
    from mlflow.entities import Run

GROUP_ID = "harness.group_id"

_STATUS = {
    "finished": "FINISHED",
    "interrupted": "KILLED",
    "failed": "FAILED",
    "diverged": "FAILED",
    "out of memory": "FAILED",
    "withdrawn": "FAILED",
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


# --- contents of a run ------------------------------------------------------------------------------------


def tags_of(start: RunStart, origin: Origin | None) -> dict[str, str]:
    """Return the tags of a run at its start."""
    job = start.job
    return {
        "architecture": job.name,
        "source_sha256": job.sha256,
        "protocol": str(job.protocol),
        "mlflow.source.name": job.path,
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": start.environment.git,
        "dataset": job.dataset,
        "verdict": "running",
        **({"author": start.author} if start.author else {}),
        **({"imported_from": origin.place} if origin else {}),
    }


def params_of(start: RunStart) -> dict[str, Any]:
    """Return the params of a run: recipe, knobs, seed, size and device."""
    before_modes = {} if start.environment.mode else {"precision": start.mode.precision}
    known = {"seed": start.job.seed, "parameters": start.parameters, "device": start.device}
    return {**asdict(start.job.recipe), **before_modes, **start.job.knobs, **known}


def points_of_epoch(epoch: Epoch, time: int, held_out: HeldOut) -> list[Point]:
    """Return the metrics of an epoch that ended at `time` (milliseconds since 1970), without unmeasured ones."""
    values = {metric.format(held_out=held_out): getattr(epoch, name) for name, metric in _EPOCH_METRICS.items()}
    return [Point(key, float(value), time, epoch.number) for key, value in values.items() if value is not None]


def points_of_result(run: FinishedRun) -> list[Point]:
    """Return the metrics of a finished run."""
    result = run.result
    values = {
        "test/final_accuracy": result.accuracy,
        "test/best_accuracy": result.best_accuracy,
        "parameters": run.start.parameters,
        "seconds": result.seconds,
        "wall_seconds": result.wall_seconds,
        "epochs_to_target": result.epochs_to_target,
    }
    return [Point(key, float(value), result.time) for key, value in values.items() if value is not None]


# --- writing to the store ---------------------------------------------------------------------------------


def sync_run(client: Client, journal: Journal) -> None:
    """Add to MLflow what it lacks of a run, except the model."""
    record = journal.read()
    if record is None:
        return
    experiment = client.experiment(record.job.dataset, EXPERIMENT_NOTE)
    known = client.find(experiment, RUN_ID, record.run_id)
    if known and _is_current(known, record):
        return
    if known and known.info.status == "KILLED" and record.state != "interrupted":
        client.reopen(known.info.run_id)  # the run was resumed: it is running and has no reason
        client.log(known.info.run_id, tags={"verdict": "running"})
        client.drop_tag(known, "reason")
    run_id = _begin(client, experiment, record, known)
    timed = zip(record.typed_epochs(), (event["time"] for event in record.epochs), strict=True)
    unsent = [*timed][client.sent.get(run_id, 0) :]  # sending an epoch again is harmless but slow
    client.log(run_id, [point for epoch, time in unsent for point in points_of_epoch(epoch, time, "test")])
    client.sent[run_id] = len(record.epochs)
    if record.ended:
        _end(client, run_id, journal, record)
        if group := _group(record):
            _sum_up(client, experiment, record, group)
        client.log(run_id, tags={COMPLETE: "true"})


def is_run_current(client: Client, journal: Journal) -> bool:
    """Return whether the store holds all of a journal; True for a run that has not ended."""
    try:
        record = journal.read()
        if record is None or not record.ended:
            return True
        run = client.look_up(record.job.dataset, record.run_id)
    except DAMAGE:  # a damaged journal has nothing to add
        return True
    return run is not None and _is_current(run, record)


def add_model(client: Client, journal: Journal) -> None:
    """Add the scored network to a finished run that lacks it; a record from before protocol 2 holds no network.

    Starting the network draws random numbers, which would change a training in this process: call it only when no
    run trains.
    """
    record = journal.read()
    if record is None or record.state != "finished" or not (journal.has_weights and journal.submission):
        return
    run = client.find(client.experiment(record.job.dataset, EXPERIMENT_NOTE), RUN_ID, record.run_id)
    assert run  # it was synced before
    if "model" not in client.files(run.info.run_id):
        client.log_files(run.info.run_id, lambda folder: write_model(folder / "model", journal))


def _is_current(run: Run, record: Record) -> bool:
    return record.ended is not None and is_complete(run) and bool(run.info.status == _STATUS[record.state])


def _begin(client: Client, experiment: str, record: Record, known: Run | None) -> str:
    start = record.start
    tags = {**tags_of(start, record.origin), RUN_ID: record.run_id, "mlflow.note.content": markdown(record)}
    if group := _group(record):
        tags["mlflow.parentRunId"] = _parent(client, experiment, record, group)
    run = client.begin(experiment, start.time, start.name, tags, params_of(start), known)
    client.log_dataset(run, start.job.dataset, start.job.dataset_digest)
    return str(run.info.run_id)


def _end(client: Client, run_id: str, journal: Journal, record: Record) -> None:
    tags = {"mlflow.note.content": markdown(record), "verdict": verdict_line(record)}
    points: Sequence[Point] = ()
    if record.state == "finished":
        points = points_of_result(FinishedRun.of(record))
    else:
        tags["reason"] = record.reason
    client.log_files(run_id, lambda folder: write_run(folder, journal, record))
    client.log(run_id, points, tags)
    client.end(run_id, _STATUS[record.state], record.ended_at)


# --- several seeds under one parent -----------------------------------------------------------------------


def _group(record: Record) -> Group | None:
    """Return the group of a run; None if imported, as the rest of its group may be missing."""
    return None if record.origin else record.start.group


def _parent(client: Client, experiment: str, record: Record, group: Group) -> str:
    start = record.start
    known = client.find(experiment, GROUP_ID, group.id)
    params = {key: value for key, value in params_of(start).items() if key != "seed"}
    tags = {**tags_of(start, record.origin), GROUP_ID: group.id}
    run = client.begin(experiment, start.time, f"{start.title} {group.size} seeds", tags, params, known)
    return str(run.info.run_id)


def _sum_up(client: Client, experiment: str, record: Record, group: Group) -> None:
    """Once the last child has ended, log mean, spread and interval to the parent and end it."""
    parent, time = _parent(client, experiment, record, group), record.ended_at
    ended = [child for child in client.children(experiment, parent) if child.info.status in _STATUS.values()]
    scores = {
        int(child.data.params["seed"]): child.data.metrics["test/final_accuracy"]
        for child in ended
        if child.info.status == "FINISHED"
    }
    seeds = {child.data.params["seed"] for child in ended}  # a seed that lost its worker is restarted
    if len(seeds) < group.size and record.state == "finished":
        return  # others are running; a seed that fails ends the command
    tags = {"verdict": f"{len(scores)} of {group.size} seeds finished"}
    points = [Point("parameters", record.start.parameters, time)]
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
        points += [Point(key, value, time) for key, value in values.items() if value is not None]
    client.log(parent, points, tags)
    status = "FINISHED" if len(scores) == group.size else _STATUS[record.state]
    client.end(parent, status, max([time, *(child.info.end_time for child in ended)]))
