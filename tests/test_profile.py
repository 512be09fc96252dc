"""Where the time of an epoch went: beside the journal, in MLflow, and as a short table."""

from __future__ import annotations

import gzip
import json
from collections.abc import Generator
from pathlib import Path

import pytest
import torch

from harness import cli, runs, tracking
from harness.errors import DivergedError
from harness.events import Epoch
from harness.journal import PROFILE, all_journals
from harness.runs import profiled

pytestmark = pytest.mark.usefixtures("undrawn")


def trace() -> dict[str, object]:
    (journal,) = all_journals()
    return json.loads(gzip.decompress((journal.folder / PROFILE).read_bytes()))


@pytest.mark.parametrize(("epochs", "chosen"), [(1, 1), (3, 2)])
def test_second_or_only_epoch_is_profiled(
    workplace: Path, capsys: pytest.CaptureFixture[str], epochs: int, chosen: int
) -> None:
    assert cli.main(["run", "tiny.py", "--dataset", "digits", "--profile", "--epochs", str(epochs)]) == 0
    printed = capsys.readouterr().out
    assert f"s of epoch {chosen} and its scoring went" in printed
    lines = printed.splitlines()
    assert lines.index(next(line for line in lines if "scoring went" in line)) > next(
        place for place, line in enumerate(lines) if line.startswith(f"epoch  {chosen}/{epochs}")
    )
    events = trace()["traceEvents"]
    assert isinstance(events, list)
    batches = -(-1_437 // 64)
    called = [event["name"] for event in events]
    assert called.count("aten::nll_loss_backward") == batches


def test_trace_is_logged_to_mlflow(workplace: Path) -> None:
    import mlflow

    assert cli.main(["run", "tiny.py", "--dataset", "digits", "--profile", "--seeds", "2"]) == 0
    client = mlflow.MlflowClient(tracking.tracking_uri())
    experiment = client.get_experiment_by_name("digits")
    assert experiment
    runs = client.search_runs([experiment.experiment_id], "params.seed != ''")
    kept = {run.data.params["seed"]: [found.path for found in client.list_artifacts(run.info.run_id)] for run in runs}
    assert {seed: PROFILE in paths for seed, paths in kept.items()} == {"0": True, "1": False}


def test_failing_epoch_ends_its_profile() -> None:
    def breaks() -> Generator[runs.Event | None]:
        yield Epoch(number=1, lr=0.1, train_loss=1.0, train_accuracy=0.5, seconds=1.0, images_per_second=1.0)
        raise DivergedError("Training diverged.")

    with pytest.raises(DivergedError):
        list(profiled(breaks(), 3))
    assert not torch.autograd._profiler_enabled()
