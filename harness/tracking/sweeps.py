"""A learning-rate sweep of the exercise in MLflow: one parent run, one child run for each learning rate."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from harness.backprop import SWEEP_NOTE, WEIGHTS, Problem, Trajectory, fastest_stable, sweep_markdown, sweep_state
from harness.tracking.artifacts import write_sweep
from harness.tracking.client import COMPLETE, RUN_ID, Client, Point, is_complete

SWEEPS = "backprop-lr-sweep"
"""The experiment of the exercise."""

_SHOWN = ("E_total", "E1", "E2", "a_o1", "a_o2", *WEIGHTS)


def points_of(trajectories: Sequence[Trajectory], now: int) -> list[Point]:
    """Return the metrics of a sweep: the final loss of each rate, and the fastest stable rate if there is one."""
    points = [Point(f"final_loss/lr_{t.rate}", t.final_loss, now) for t in trajectories]
    best = fastest_stable(trajectories)
    return [*points, Point("fastest_stable_lr", best.lr, now)] if best else points


def sync_sweep(client: Client, problem: Problem, trajectories: Sequence[Trajectory]) -> None:
    """Record a sweep with one child for each learning rate; repeating a sweep adds nothing."""
    experiment = client.experiment(SWEEPS, SWEEP_NOTE)
    settings = {**asdict(problem), "lr": [t.lr for t in trajectories], "steps": len(trajectories[0].rows) - 1}
    identity = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    found = client.find(experiment, RUN_ID, identity)
    if found and is_complete(found):
        return
    if found:  # an earlier try was stopped half-way
        partial = found.info.run_id
        client.delete([*(child.info.run_id for child in client.children(experiment, partial)), partial])
    now = round(time.time() * 1000)
    targets = ", ".join(f"{target:g}" for target in problem.targets)
    tags = {RUN_ID: identity, "mlflow.note.content": sweep_markdown(problem, trajectories)}
    name = f"targets {targets}, {len(trajectories)} rates, {settings['steps']} steps"
    parent = client.begin(experiment, now, name, tags, settings).info.run_id
    client.log_files(parent, lambda folder: write_sweep(folder, problem, trajectories))
    for trajectory in trajectories:
        _record_descent(client, experiment, parent, trajectory, {**settings, "lr": trajectory.lr}, now)
    client.log(parent, points_of(trajectories, now), {COMPLETE: "true"})
    client.end(parent, "FINISHED")


def _record_descent(
    client: Client, experiment: str, parent: str, trajectory: Trajectory, settings: Mapping[str, Any], now: int
) -> None:
    tags = {"mlflow.parentRunId": parent, "state": sweep_state(trajectory)}
    run_id = client.begin(experiment, now, f"lr {trajectory.rate}", tags, settings).info.run_id
    client.log(
        run_id, [Point(name, row[name], now, step) for step, row in enumerate(trajectory.rows) for name in _SHOWN]
    )
    client.end(run_id, "FINISHED")
