"""Processes that begin at the same instant, in an empty folder: one store, one dataset, a run each."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from conftest import TINY
from mlflow import MlflowClient
from processes import harness

from harness import data, plugins, runs
from harness.events import Epoch
from harness.journal import all_journals
from harness.runs import Started
from harness.spec import Job
from harness.tracking import Tracker, tracking_uri


@pytest.mark.parametrize("count", [4, pytest.param(8, marks=pytest.mark.soak)])
def test_concurrent_runs_are_all_recorded(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    seeds = [number // 2 for number in range(count)]
    begun = [harness(tmp_path, "run", "tiny.py", "--dataset", "digits", "--seed", str(seed)) for seed in seeds]
    said = [process.communicate()[0] for process in begun]
    assert [process.returncode for process in begun] == [0] * count, said
    records = [journal.read() for journal in all_journals()]
    assert [record.state for record in records if record] == ["finished"] * count
    client = MlflowClient(tracking_uri())
    (experiment,) = (found for found in client.search_experiments() if found.name != "Default")
    shown = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in shown} == {"FINISHED"}
    assert Counter(run.info.run_name for run in shown) == Counter(f"tiny seed {seed}" for seed in seeds)
    assert {run.data.tags["harness.run_id"] for run in shown} == {journal.run_id for journal in all_journals()}
    assert not list((tmp_path / "mlruns").glob("making-*"))


DOWNLOADS = """
import sys, time
from pathlib import Path
import torchvision.datasets as datasets
from dataclasses import replace
sys.path.insert(0, {tests!r})
from test_data import CONTENTS, FILES
import hashlib
from harness import data

class Slow:
    def __init__(self, root, download):
        raw = Path(root) / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for file in FILES:
            with open(raw / file, "wb") as place:
                for byte in range(0, len(CONTENTS[file]), 4096):
                    place.write(CONTENTS[file][byte : byte + 4096])
                    place.flush()
                    time.sleep(0.02)

datasets.MNIST = Slow
hashes = {{file: hashlib.sha256(contents).hexdigest() for file, contents in CONTENTS.items()}}
data.IDX_DATASETS["mnist"] = replace(data.IDX_DATASETS["mnist"], sha256=hashes)
print("ready", flush=True)
sys.stdin.readline()
print(len(data.load("mnist").train.labels))
"""


def test_concurrent_downloads_leave_one_complete_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))
    code = DOWNLOADS.format(tests=str(Path(__file__).parent.parent))
    begun = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in begun:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in begun:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate()[0] for process in begun]
    assert [process.returncode for process in begun] == [0, 0]
    assert said[0] == said[1]
    assert sorted(file.name for file in (tmp_path / "data" / "MNIST" / "raw").iterdir()) == sorted(
        data.IDX_DATASETS["mnist"].sha256
    )
    assert [place.name for place in (tmp_path / "data").iterdir()] == ["MNIST"]


def job(epochs: int) -> Job:
    architecture = plugins.from_source(TINY, "tiny.py")
    knobs, recipe = plugins.apply_settings(architecture, {"epochs": epochs})
    return runs.jobs(architecture, knobs, recipe, data.load("digits"), range(1), "cpu")[0]


@pytest.mark.quick
def test_only_one_process_resumes_an_interrupted_run(workplace: Path) -> None:
    tracker = Tracker()
    begun = runs.record(job(4), tracker)
    for event in begun:
        if isinstance(event, Epoch) and event.number == 2:
            begun.close()
    (interrupted,) = all_journals()
    found = runs.find_existing_runs([job(4)]).unfinished[0]
    assert found.run_id == interrupted.run_id
    both = [runs.record(job(4), tracker, None, found) for _ in range(2)]
    started = [next(event for event in run if isinstance(event, Started)) for run in both]
    assert [event.epochs_before for event in started] == [2, 0]
    assert started[0].run_id == interrupted.run_id != started[1].run_id
    for run in both:
        list(run)
    records = [journal.read() for journal in all_journals()]
    assert [record.state for record in records if record] == ["finished", "finished"]
    tracker.close()
