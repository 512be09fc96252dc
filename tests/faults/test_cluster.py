"""A real cluster, with real kills: no trial lost or doubled, the same study, and a message where it cannot go on."""

from __future__ import annotations

import gc
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
from dask_processes import DaskProcesses, dask_processes
from distributed import Client
from processes import harness, kill, until

from harness import cli, data, plugins, runs, tuning
from harness.errors import BudgetError, ClusterLost, CrashedError, UsageError, WorkerLost
from harness.events import Epoch, Result, StudyRecord
from harness.journal import all_journals
from harness.tuning import Search
from harness.workers import Cluster, News, Processes
from harness.workers.gpus import WorkerInfo, shared_out

pytestmark = pytest.mark.usefixtures("undrawn")

STUDY = '''"""The learning rate of a linear layer."""
ARCHITECTURE = "tiny.py"


def suggest(trial):
    return {"lr": trial.suggest_float("lr", 1e-3, 1.0, log=True), "batch_size": 16}
'''
TRIALS = 6
EPOCHS = 3


@pytest.fixture(autouse=True)
def collect_failed_clients() -> None:
    """Dask waits for itself for ever where a client that failed is collected while another one starts."""
    gc.collect()


@pytest.fixture
def workshop(workplace: Path) -> Path:
    (workplace / "study.py").write_text(STUDY)
    return workplace


def search() -> Search:
    study = plugins.load_study("study.py")
    return Search(study, data.load("digits", "validation"), EPOCHS, 0, study.sampler, study.pruner, "cpu")


def connect(begun: DaskProcesses, hang_timeout: float = 60) -> Cluster:
    hired = Cluster(begun.address, hang_timeout)
    hired.configure("cpu", 1.0)
    hired.send("digits", "validation")
    return hired


def kept(record: StudyRecord) -> list[tuple[object, ...]]:
    return [(trial.number, trial.state, trial.value, trial.settings, len(trial.epochs)) for trial in record.trials]


def study(hired: Any, during: Callable[[News], object] = lambda news: None, trials: int = TRIALS) -> StudyRecord:
    """Finish the study, and do something at the first news from a trial."""
    is_first = True
    for event in tuning.tune(search(), trials, hired):
        if isinstance(event, News) and is_first:
            is_first = False
            during(event)
    assert isinstance(event, StudyRecord)
    assert not is_first, "no news came in"
    return event


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[object, ...]]:
    """The study as this machine's own processes train it."""
    from conftest import TINY

    place, before = tmp_path_factory.mktemp("alone"), Path.cwd()
    (place / "tiny.py").write_text(TINY)
    (place / "study.py").write_text(STUDY)
    os.chdir(place)
    try:
        return kept(study(Processes(1, "cpu", 60)))
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskProcesses]:
    """Two workers that are there for one test after the other."""
    with dask_processes(tmp_path_factory.mktemp("common") / "dask", "one", "two") as begun:
        yield begun


@pytest.fixture
def two(workshop: Path) -> Iterator[DaskProcesses]:
    """Two workers to be killed."""
    with dask_processes(workshop / "dask", "one", "two") as begun:
        yield begun


def test_cluster_study_equals_local_study(common: DaskProcesses, workshop: Path, alone: list[Any]) -> None:
    assert kept(study(connect(common))) == alone


def test_lost_host_loses_no_trial(two: DaskProcesses, alone: list[Any]) -> None:
    def kill_it(news: News) -> None:
        two.kill(news.worker.removeprefix("worker "))

    assert kept(study(connect(two), kill_it)) == alone


def test_work_of_hung_worker_is_rescheduled(
    two: DaskProcesses, alone: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.workers.cluster.SILENCE_SECONDS", 5.0)

    def stop_it(news: News) -> None:
        two.send(news.worker.removeprefix("worker "), signal.SIGSTOP)

    assert kept(study(connect(two), stop_it)) == alone


def test_lost_scheduler_ends_study_and_next_command_resumes(two: DaskProcesses, alone: list[Any]) -> None:
    with pytest.raises(ClusterLost, match="is gone"):
        study(connect(two), lambda news: two.kill("scheduler"))
    two.begin_scheduler()
    two.begin_worker("three")
    assert kept(study(connect(two))) == alone


def test_killed_driver_resumes_the_same_study(workshop: Path, two: DaskProcesses, alone: list[Any]) -> None:
    command = ("tune", "study.py", "--dataset", "digits", "--epochs", str(EPOCHS), "--trials", str(TRIALS))
    driver = harness(workshop, *command, "--cluster", two.address)
    until(driver, "complete", 3)
    kill(driver)
    assert harness(workshop, *command, "--cluster", two.address).wait() == 0
    (record,) = tuning.records()
    assert kept(record) == alone


def test_several_crashed_trials_in_a_row_end_study(workshop: Path) -> None:
    crash = "import os\nfrom torch import nn\n\ndef build(*, width: int = 2) -> nn.Module:\n    os._exit(3)\n"
    (workshop / "tiny.py").write_text(f'"""It ends its process."""\n{crash}')
    failed = r"\d+ trials in a row failed, the last one: .*ended by itself, with code 3"
    with dask_processes(workshop / "dask") as begun:
        begun.begin_worker("one", nanny=True)
        begun.begin_worker("two", nanny=True)
        with pytest.raises(CrashedError, match=failed):
            list(tuning.tune(search(), 20, connect_to(begun, 2)))


def test_run_of_lost_worker_is_rescheduled(two: DaskProcesses) -> None:
    architecture = plugins.load("tiny.py")
    knobs, recipe = plugins.apply_settings(architecture, {"epochs": 6, "batch_size": 16})
    jobs = runs.jobs(architecture, knobs, recipe, data.load("digits"), range(2), "cpu")
    hired = connect(two)
    lost = False
    with hired:
        waiting = {job.seed: (job, hired.train(job)) for job in jobs}
        results = []
        while waiting:
            for seed, (job, events) in [*waiting.items()]:
                try:
                    event = next(events)
                except WorkerLost:
                    waiting[seed] = job, hired.train(job)
                    continue
                if isinstance(event, Epoch) and not lost:
                    lost = True
                    two.kill("one")
                if isinstance(event, Result):
                    results.append(event)
                    del waiting[seed]
    assert sorted(result.accuracy for result in results) == sorted(
        event.accuracy for job in jobs for event in runs.train(job) if isinstance(event, Result)
    )


@pytest.mark.quick
def test_driver_records_seeds_trained_by_workers(common: DaskProcesses, workshop: Path) -> None:
    arguments = ["run", "tiny.py", "--dataset", "digits", "--seeds", "3", "--cluster", common.address]
    assert cli.main(arguments) == 0
    records = [journal.read() for journal in all_journals()]
    assert sorted((record.job.seed, record.state) for record in records if record) == [
        (0, "finished"),
        (1, "finished"),
        (2, "finished"),
    ]


def test_workers_serve_consecutive_commands(
    common: DaskProcesses, workshop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seeds in ("2", "4", "4"):
        arguments = ["run", "tiny.py", "--dataset", "digits", "--seeds", seeds, "--cluster", common.address]
        assert cli.main(arguments) == 0
        assert f"n = {seeds}" in capsys.readouterr().out
    records = [journal.read() for journal in all_journals()]
    assert sorted(record.job.seed for record in records if record) == [0, 1, 2, 3]


def test_concurrent_studies_do_not_interfere(common: DaskProcesses, workshop: Path) -> None:
    command = ("tune", "study.py", "--dataset", "digits", "--epochs", "2", "--trials", "4", "--cluster", common.address)
    both = [harness(workshop, *command, "--seed", seed) for seed in ("1", "2")]
    assert [driver.wait() for driver in both] == [0, 0]
    assert [trial.state for record in tuning.records() for trial in record.trials].count("failed") == 0


def test_driver_prints_refusal_of_worker(
    workshop: Path, common: DaskProcesses, capsys: pytest.CaptureFixture[str]
) -> None:
    large = (
        (workshop / "tiny.py").read_text().replace("nn.Linear(", "nn.Linear(49, 999), nn.Linear(999, 49), nn.Linear(")
    )
    (workshop / "large.py").write_text(large)
    assert cli.main(["run", "large.py", "--dataset", "digits", "--cluster", common.address]) == BudgetError.exit_code
    assert "parameters" in capsys.readouterr().err


@pytest.mark.quick
@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("tcp://127.0.0.1:1", "No Dask scheduler answers at tcp://127.0.0.1:1"),
        ("nowhere", "No Dask scheduler answers at nowhere"),
        ("local:0", "Allowed: local:1 to local:256."),
        ("local:²", "Allowed: local:1 to local:256."),
        ("", "No Dask scheduler answers at"),
    ],
)
def test_unreachable_address_is_reported(
    workshop: Path, monkeypatch: pytest.MonkeyPatch, address: str, said: str
) -> None:
    monkeypatch.setattr("harness.workers.cluster.CONNECT_SECONDS", 1)
    with pytest.raises(UsageError) as caught:
        Cluster(address, 60)
    assert said in " ".join(caught.value.lines)


def test_scheduler_without_workers_is_reported(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.workers.cluster.ARRIVAL_SECONDS", 1)
    with dask_processes(workshop / "dask") as begun, pytest.raises(UsageError, match="has no workers"):
        connect(begun)


def test_local_cluster_starts_requested_workers(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["tune", "study.py", "--dataset", "digits", "--epochs", "1", "--trials", "4", "--cluster", "local:3"]
    assert cli.main(command) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "cluster local:3: 3 workers" in said
    assert "2 of these are idle at the end of each batch; --proposals 12 starts a new study" in said


def test_gpus_are_shared_as_announced(workshop: Path) -> None:
    def busy(folder: Path, number: int) -> tuple[float, float]:  # within, as workers cannot import this file
        started = time.monotonic()  # the clock of the whole machine
        (folder / str(number)).touch()
        while len(list(folder.iterdir())) < 2 and time.monotonic() < started + 60:
            time.sleep(0.05)
        time.sleep(1)
        return started, time.monotonic()

    with dask_processes(workshop / "dask") as begun:
        begun.begin_worker("one", "--resources", "GPU=1", "--nthreads", "4")
        hired = connect(begun)
        assert hired.gpus == 1
        hired.configure("cuda", 0.5)
        (folder := workshop / "begun").mkdir()
        with hired:
            submitted = [hired._executor.submit(busy, folder, number) for number in range(4)]
            times = [future.result() for future in submitted]
        assert max(sum(begin <= start < end for begin, end in times) for start, _ in times) == 2


PRETEND = """import os

import torch

torch.cuda.device_count = lambda: len(os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(","))
"""


@pytest.fixture
def pretended(workshop: Path) -> str:
    """Return a file that makes a worker which loads it see one GPU, or those of CUDA_VISIBLE_DEVICES."""
    (workshop / "pretend.py").write_text(PRETEND)
    return str(workshop / "pretend.py")


@pytest.fixture
def local(pretended: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the workers of local:N see two GPUs."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-a1")
    with dask.config.set({"distributed.worker.preload": [pretended]}):
        yield


def announced(hired: Cluster) -> list[float]:
    resources = [worker["resources"] for worker in hired._client.scheduler_info()["workers"].values()]
    return sorted(found.get("GPU", 0.0) for found in resources)


def connect_to(begun: DaskProcesses, workers: int) -> Cluster:
    with Client(begun.address, set_as_default=False) as waiting:
        waiting.wait_for_workers(workers)
    return connect(begun)


def look_until(hired: Cluster, is_so: Callable[[], bool]) -> None:
    for _ in range(600):
        hired.wait([], 0.1)
        if is_so():
            return
        time.sleep(0.1)
    raise AssertionError("it never was")


def test_local_workers_share_visible_gpus(local: None) -> None:
    hired = Cluster("local:3", 60)
    assert (hired.gpus, announced(hired)) == (2, [0.5, 0.5, 1])
    hired.configure("cuda")
    assert hired.at_once == 3
    with hired:
        trained_on = hired._client.run(os.getenv, "CUDA_VISIBLE_DEVICES").values()
        assert sorted(trained_on) in (["4", "4", "GPU-a1"], ["4", "GPU-a1", "GPU-a1"])
        assert [future.result(60) for future in [hired._executor.submit(abs, -1) for _ in range(6)]] == [1] * 6


def test_gpu_share_beyond_every_worker_is_refused(local: None, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "tiny.py", "--dataset", "digits", "--cluster", "local:4", "--gpu-share", "0.6"]
    assert cli.main(arguments) == UsageError.exit_code
    said = capsys.readouterr().err
    assert "--gpu-share 0.6 is more than any worker has." in said
    assert "Allowed: above 0, to 0.5." in said


def test_manual_workers_announce_each_gpu_once(workshop: Path, pretended: str) -> None:
    with dask_processes(workshop / "dask") as begun:
        begun.begin_worker("one", "--preload", pretended)
        begun.begin_worker("two", "--preload", pretended)
        begun.begin_worker("three", "--preload", pretended, "--resources", "GPU=2", CUDA_VISIBLE_DEVICES="1")
        with connect_to(begun, 3) as hired:
            assert announced(hired) == [0.5, 0.5, 2]


def test_late_worker_announces_remaining_gpu_share(
    workshop: Path, pretended: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.workers.remote.HEARTBEAT_SECONDS", 0.1)
    with dask_processes(workshop / "dask") as begun:
        begun.begin_worker("one", "--preload", pretended)
        begun.begin_worker("two", "--preload", pretended)
        with connect_to(begun, 2) as hired:
            begun.kill("one")
            begun.begin_worker("three", "--preload", pretended)
            begun.begin_worker("four", "--preload", pretended)
            look_until(hired, lambda: len(hired.members) == 3)
            assert sum(announced(hired)) == 1
        with connect_to(begun, 3) as hired:  # where no other driver is at work
            assert announced(hired) == [1 / 3] * 3


def member(address: str, sees: str = "0", gpus: float | None = None, host: str = "here") -> WorkerInfo:
    return WorkerInfo(address, "1", "2", host, tuple(sees.split()), gpus, is_dealt=False)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("members", "gets"),
    [
        ([member("a"), member("b"), member("c")], {"a": ("0", 1 / 3), "b": ("0", 1 / 3), "c": ("0", 1 / 3)}),
        ([member("a"), member("b", host="there")], {"a": ("0", 1), "b": ("0", 1)}),
        ([member("a", "0 1"), member("b", "0 1"), member("c", "0")], {"a": ("1", 1), "b": ("0", 0.5), "c": ("0", 0.5)}),
        ([member("a", "0 1", 1.0), member("b", "0 1")], {"b": ("1", 1)}),
        ([member("a", "0", 1 / 7), member("b"), member("c")], {"b": ("0", 3 / 7), "c": ("0", 3 / 7)}),
        ([member("a", "0", 8.0), member("b")], {"b": ("0", 0)}),
        ([member("a", "", 0.0)], {}),
    ],
)
def test_remaining_gpu_is_shared_equally(members: list[WorkerInfo], gets: dict[str, tuple[str, float]]) -> None:
    assert {dealt.address: (*dealt.sees, dealt.gpus) for dealt in shared_out(members)} == gets


def test_cpu_work_needs_no_gpu(common: DaskProcesses, workshop: Path) -> None:
    hired = connect(common)
    assert hired.gpus == 0
    with hired:
        assert hired._executor.submit(sum, [1, 2]).result(60) == 3


@pytest.mark.skipif("HARNESS_DATA" not in os.environ, reason="needs MNIST: set HARNESS_DATA")
def test_driver_sends_images_to_workers(workshop: Path) -> None:
    (workshop / "nothing").mkdir()
    with dask_processes(workshop / "dask") as begun:
        begun.begin_worker("one", HARNESS_DATA=str(workshop / "nothing"))
        cheap = ["--epochs", "1", "--set", "batch_size=2000"]
        assert cli.main(["run", "tiny.py", "--dataset", "mnist", *cheap, "--cluster", begun.address]) == 0
        (sent, *_) = (workshop / "dask").rglob("train-images-idx3-ubyte.gz")
    assert sent.stat().st_size > 0


@pytest.mark.quick
def test_silent_address_times_out(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.workers.cluster.CONNECT_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(UsageError, match="no response"):
        Cluster(f"tcp://127.0.0.1:{silent.getsockname()[1]}", 60)


@pytest.mark.quick
def test_gpu_share_requires_cluster(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "tiny.py", "--dataset", "digits", "--gpu-share", "0.5"]) == UsageError.exit_code
    assert "--gpu-share needs --cluster" in capsys.readouterr().err


@pytest.mark.quick
@pytest.mark.parametrize("option", ["--jobs=2", "--confirm=2"])
def test_unsupported_cluster_options_are_refused(
    workshop: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    command = ["tune", "study.py", "--dataset", "digits", option, "--cluster", "local:1"]
    assert cli.main(command) == UsageError.exit_code
    assert "cannot go together" in capsys.readouterr().err
