"""Whole commands on a pretended GPU: all is launched, captured and replayed, and nothing illegal is in a capture."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pretended
import pytest
from preloaded import Preloaded, Process

from harness.journal import Record, all_journals

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURES = sorted((ROOT / "architectures").glob("*.py"))
ON_GPU = ("--dataset", "digits", "--device", "cuda", "--epochs", "3")  # some warm up for nearly as long

pytestmark = [
    pytest.mark.skipif(bool(pretended.why_not()), reason=pretended.why_not()),
]


def environment() -> dict[str, str]:
    found = pretended.environment(pretended.built()) | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    found["PYTHONPATH"] += os.pathsep + str(ROOT)
    return found


@pytest.fixture(scope="session")
def preloaded() -> Iterator[Preloaded]:
    """Return a process under a runtime that was built for the installed torch, to be forked."""
    with contextlib.closing(Preloaded(environment())) as begun:
        yield begun


class Gpu:
    """Starts Python in `place`, where it finds a pretended GPU."""

    def __init__(self, preloaded: Preloaded, place: Path) -> None:
        self._preloaded, self._place = preloaded, place
        self._log = place / "gpu.log"

    def start(self, *arguments: str, **variables: str) -> Process:
        found = environment() | {"PRETENDED_GPU_LOG": str(self._log)} | variables
        return self._preloaded.start(arguments, self._place, found)

    def python(self, *arguments: str, **variables: str) -> tuple[int, str]:
        process = self.start(*arguments, **variables)
        said, _ = process.communicate()
        return process.wait(), said

    def harness(self, *arguments: str, **variables: str) -> tuple[int, str]:
        return self.python("-m", "harness", *arguments, **variables)

    def happened(self, what: str) -> list[list[str]]:
        """Return what the log has of one kind of event, each as its words."""
        return [line[1:] for line in pretended.read_log(self._log) if line[0] == what]

    def assert_captured_and_replayed(self, captures: int) -> None:
        """Assert that at least so many steps were captured, each whole and legally, and that steps were replayed."""
        assert self.happened("illegal") == []
        assert self.happened("failed") == []
        captured = self.happened("captured")
        assert len(captured) >= captures
        assert all(int(nodes) > 0 and int(missed) == 0 for nodes, missed in captured)
        assert self.happened("launched")


@pytest.fixture
def gpu(preloaded: Preloaded, workplace: Path) -> Gpu:
    return Gpu(preloaded, workplace)


def records() -> list[Record]:
    found = [journal.read() for journal in all_journals()]
    return [record for record in found if record]


# --- commands ---------------------------------------------------------------------------------------------


def test_every_architecture_replays_captured_steps(gpu: Gpu) -> None:
    code, said = gpu.harness("run", *map(str, ARCHITECTURES), *ON_GPU)
    assert code == 0, said
    assert {record.job.name: (record.state, record.start.mode.execution) for record in records()} == {
        file.stem: ("finished", "captured") for file in ARCHITECTURES
    }
    gpu.assert_captured_and_replayed(captures=len(ARCHITECTURES))


def test_concurrent_seeds_replay_their_own_steps(gpu: Gpu) -> None:
    file = str(ROOT / "architectures" / "depthwise_head.py")  # averaged weights, and a last epoch that augments less
    code, said = gpu.harness("run", file, *ON_GPU, "--seeds", "3", "--jobs", "3")
    assert code == 0, said
    assert [record.state for record in records()] == ["finished"] * 3
    assert {record.start.mode.execution for record in records()} == {"captured"}
    gpu.assert_captured_and_replayed(captures=3)


def test_every_architecture_is_checked_on_device(gpu: Gpu) -> None:
    files = [str(ROOT / "architectures" / name) for name in ("slim.py", "s6_gap.py")]
    code, said = gpu.harness("check", *files, "--device", "cuda")
    assert code == 0, said
    assert said.count("trains on Pretended H100, bfloat16, captured") == len(files)
    assert "a CUDA graph cannot hold a step" not in said
    assert gpu.happened("illegal") == []


def test_killed_run_resumes_with_recaptured_steps(gpu: Gpu) -> None:
    command = ("run", "tiny.py", "--dataset", "digits", "--device", "cuda", "--epochs", "19")
    # 23 steps an epoch: what is left after the second takes at least 3 seconds.
    process = gpu.start("-m", "harness", *command, PRETENDED_GPU_MICROSECONDS="10000")
    said = ""
    while "epoch  2/19" not in said:
        line = process.stdout.readline()
        assert line, f"it ended too early:\n{said}"
        said += line
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    before = len(gpu.happened("captured"))

    code, said = gpu.harness(*command)
    assert code == 0, said
    assert "resumes after epoch" in said
    (record,) = records()
    assert record.state == "finished"
    assert [epoch["number"] for epoch in record.epochs] == list(range(1, 20))
    gpu.assert_captured_and_replayed(captures=before + 1)


STUDY = '''"""The learning rate of a linear layer."""
ARCHITECTURE = "tiny.py"


def suggest(trial):
    return {"lr": trial.suggest_float("lr", 1e-3, 1.0, log=True)}
'''


def test_study_trains_trials_concurrently(gpu: Gpu) -> None:
    Path("study.py").write_text(STUDY)
    code, said = gpu.harness("tune", "study.py", *ON_GPU, "--trials", "4", "--jobs", "2")
    assert code == 0, said
    assert said.count("Traceback") == 0
    gpu.assert_captured_and_replayed(captures=4)


def test_speed_command_completes(gpu: Gpu) -> None:
    code, said = gpu.harness("speed", "tiny.py", "--dataset", "digits", "--device", "cuda", "--epochs", "1", "--json")
    assert code == 0, said
    assert '"execution": "captured"' in said
    gpu.assert_captured_and_replayed(captures=1)


RESUMES_PLAIN = """
    from dataclasses import replace
    from harness import data, plugins, runs
    from harness.events import Checkpoint, Epoch, Result
    from harness.spec import REFERENCE

    tiny = plugins.load("tiny.py")
    for optimizer in ("sgd", "adamw"):
        recipe = replace(tiny.recipe, optimizer=optimizer, epochs=3)
        (job,) = runs.jobs(tiny, tiny.knobs, recipe, data.load("digits"), range(1), "cuda", plain=True)
        events = [event for event in runs.train(job, keep=True) if event]
        first = next(event for event in events if isinstance(event, Epoch))
        checkpoint = next(event for event in events if isinstance(event, Checkpoint))
        *_, last = runs.train(job, runs.Progress(checkpoint, (first,), REFERENCE))
        print(optimizer, type(last).__name__)
"""


def test_reference_run_resumes_with_optimiser_state(gpu: Gpu) -> None:
    code, said = gpu.python("-c", textwrap.dedent(RESUMES_PLAIN))
    assert code == 0, said
    assert said.split() == ["sgd", "Result", "adamw", "Result"]


def test_training_step_never_synchronises_with_host(gpu: Gpu) -> None:
    Path("architectures").symlink_to(ROOT / "architectures")
    code, said = gpu.python(str(Path(__file__).with_name("without_contents.py")))
    assert code == 0, said
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert {line["network"]: line["found"] for line in lines if "optimizer" not in line} == {
        "a copy from the host": ["aten._to_copy.default"],
        "ReadsANumber": ["DataDependentOutputException"],
        "PicksByABuffer": ["DynamicOutputShapeException"],
        "HoldsATable": [],
    }
    steps = [line for line in lines if "optimizer" in line]
    assert {line["network"] for line in steps} == {file.stem for file in ARCHITECTURES}
    assert len({(line["optimizer"], line["nesterov"], line["ema"]) for line in steps}) == 3 * 2
    assert [line for line in steps if line["found"]] == []


# --- what cannot be captured ------------------------------------------------------------------------------


def test_uncapturable_network_trains_eagerly_with_notice(gpu: Gpu) -> None:
    file = str(Path(__file__).with_name("uncapturable.py"))
    # The host reads how much the mask picks: memory that held nothing before gives 0, and any other a random number.
    afresh = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    code, said = gpu.harness("run", file, *ON_GPU, "--seeds", "2", "--jobs", "2", **afresh)
    assert code == 0, said
    assert said.count("a CUDA graph cannot hold a step of this network") == 2
    assert [record.state for record in records()] == ["finished"] * 2
    assert {record.start.mode.execution for record in records()} == {"eager"}
    assert gpu.happened("launched") == []


FAILS_AND_GOES_ON = """
    import torch
    from harness.training import capture

    images = torch.ones(8, device="cuda")
    with capture.own_randomness(images.device), capture.own_stream() as stream:
        try:
            capture.capture(lambda: images.sum().item(), stream)
        except capture.Uncapturable as error:
            print("uncapturable:", error)
    images.add_(torch.nn.functional.dropout(images)).cpu()
    torch.cuda.synchronize()
    torch.empty(2**28, device="cuda")
    with capture.own_randomness(images.device), capture.own_stream() as stream:
        capture.capture(lambda: torch.nn.functional.dropout(images), stream)()
    print("and goes on")
"""


@pytest.mark.quick
def test_failed_capture_leaves_device_usable(gpu: Gpu) -> None:
    code, said = gpu.python("-c", textwrap.dedent(FAILS_AND_GOES_ON))
    assert code == 0, said
    assert "uncapturable:" in said
    assert "and goes on" in said
    assert gpu.happened("illegal") == [["cudaStreamSynchronize", "cudaErrorStreamCaptureUnsupported"]]
    assert gpu.happened("failed") == [["cudaErrorStreamCaptureInvalidated"]]
    assert len(gpu.happened("captured")) == len(gpu.happened("launched")) == 1


# --- other GPUs -------------------------------------------------------------------------------------------


@pytest.mark.quick
def test_gpu_without_bfloat16_trains_in_float32(gpu: Gpu) -> None:
    code, said = gpu.harness("run", "tiny.py", *ON_GPU, PRETENDED_GPU="t4")
    assert code == 0, said
    (record,) = records()
    assert (record.start.mode.precision, record.start.mode.execution) == ("float32", "captured")
    assert record.started["environment"]["device"] == "Pretended T4"
    gpu.assert_captured_and_replayed(captures=1)


def test_unsupported_gpu_is_refused_and_auto_uses_cpu(gpu: Gpu) -> None:
    on_p100, on_auto = (
        gpu.harness("run", "tiny.py", "--dataset", "digits", "--device", device, "--epochs", "2", PRETENDED_GPU="p100")
        for device in ("cuda", "auto")
    )
    if pretended.first_capability() <= 60:  # this torch has code for it
        assert [on_p100[0], on_auto[0]] == [0, 0], on_p100[1] + on_auto[1]
        assert {record.start.mode.precision for record in records()} == {"float32"}
        return
    assert on_p100[0] == 2, on_p100[1]
    assert "Pretended P100" in on_p100[1]
    assert "Traceback" not in on_p100[1]
    assert on_auto[0] == 0, on_auto[1]
    (record,) = records()
    assert record.job.device == "cpu"


# --- the tools --------------------------------------------------------------------------------------------


def test_captured_nodes_are_counted_by_name(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = str(Path(__file__).with_name("nodes.py"))
    file = str(ROOT / "architectures" / "slim.py")
    monkeypatch.setenv("NODES_UNDER_THE_RUNTIME", "1")
    code, said = gpu.python(nodes, file, "--dataset", "digits", "--detail")
    assert code == 0, said
    row = next(line.split() for line in said.splitlines() if line.startswith("slim "))
    step, epoch, scoring = (int(number) for number in row[5:8])
    captured = [int(nodes) for nodes, _ in gpu.happened("captured")]
    assert captured == [step]
    assert epoch > 0
    assert scoring > 0
    assert "convolution" in said
