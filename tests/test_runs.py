"""One job: the same seed gives the same bits, and what is refused leaves nothing behind."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from audited import ARCHITECTURES, NARROW
from conftest import TINY
from torch import Tensor, nn

from harness import cli, data, plugins, runs, training
from harness.errors import AuditError, CrashedError, DataError, DivergedError, OutOfMemory, UsageError
from harness.events import Checkpoint, Epoch, Result
from harness.journal import all_journals
from harness.runs import Started, build
from harness.runs.existing import ExistingRuns
from harness.spec import REFERENCE, ComputeMode, Job
from harness.tracking import Tracker
from harness.training import Choice, Uncapturable, compute, predict, tensors_by_name


def job(source: str = TINY, seed: int = 0, **settings: bool | int | float | str) -> Job:
    architecture = plugins.from_source(source, "tiny.py")
    knobs, recipe = plugins.apply_settings(architecture, settings)
    return runs.jobs(architecture, knobs, recipe, data.load("digits"), range(seed, seed + 1), "cpu")[0]


def result(events: Iterator[runs.Event | None]) -> Result:
    *_, last = events
    assert isinstance(last, Result)
    return last


def same(left: Result, right: Result) -> bool:
    return all(torch.equal(left.weights[name], right.weights[name]) for name in left.weights)


class DeafTracker(Tracker):
    """Takes notice of nothing."""

    def __init__(self) -> None:
        super().__init__("nowhere")

    def enqueue(self, journal: object) -> None:
        pass


def test_job_yields_start_epochs_and_result() -> None:
    events = [event for event in runs.train(job()) if event]
    assert [type(event) for event in events] == [Started, Epoch, Epoch, Result]
    assert isinstance(events[0], Started)
    assert events[0].ledger.parameters == 598


@pytest.mark.parametrize(
    "settings", [{}, {"ema": 0.9}, {"rotation": 10.0, "zoom_p": 0.5}, {"optimizer": "adamw", "momentum": 0}]
)
def test_only_the_same_seed_gives_the_same_bits(settings: dict[str, float | str]) -> None:
    first, again = (result(runs.train(job(**settings))) for _ in range(2))
    other = result(runs.train(job(seed=1, **settings)))
    assert same(first, again)
    assert np.array_equal(first.logits, again.logits)
    assert (first.accuracy, first.loss) == (again.accuracy, again.loss)
    assert not same(first, other)


DRAWN = '''"""A bias that is drawn while the file is executed."""
import torch
from torch import nn

RECIPE = {"batch_size": 64, "epochs": 1}
START = torch.randn(10)


def build():
    linear = nn.Linear(784, 10)
    with torch.no_grad():
        linear.bias.copy_(START)
    return nn.Sequential(nn.Flatten(), linear)
'''


def test_random_numbers_at_import_follow_the_seed() -> None:
    assert same(result(runs.train(job(DRAWN))), result(runs.train(job(DRAWN))))


def test_score_is_of_the_last_epoch() -> None:
    *epochs, last = list(runs.train(job(epochs=5, lr=1.0)))[1:]
    curve = [epoch.held_out_accuracy for epoch in epochs if isinstance(epoch, Epoch)]
    assert isinstance(last, Result)
    assert last.accuracy == curve[-1] == np.mean(last.logits.argmax(1) == last.labels)
    assert last.best_accuracy == max(curve)
    assert last.best_epoch == curve.index(max(curve)) + 1


@pytest.mark.parametrize(
    "name", ["tiny", "conv_transition", "depthwise_head", pytest.param("p4m_convolution", marks=pytest.mark.thorough)]
)
def test_scored_weights_reproduce_answers_in_plug_in(name: str) -> None:
    source = TINY if name == "tiny" else Path(f"architectures/{name}.py").read_text()
    knobs = NARROW.get(name, {})
    done = result(runs.train(job(source, epochs=1, ema=0.9, warmup_epochs=0, **knobs)))
    network = plugins.execute(source, "tiny.py").build(**knobs)
    network.load_state_dict(done.weights)
    digits = data.load("digits")
    answers = predict(network.eval(), digits, digits.held_out).numpy()
    assert np.allclose(answers, done.logits, rtol=1e-4, atol=1e-4 * np.abs(answers).max())


def test_averaged_weights_are_scored() -> None:
    plain, averaged = result(runs.train(job())), result(runs.train(job(ema=0.9)))
    assert not same(plain, averaged)


GATED = '''"""A counter that training moves opens a gate to the rest of the batch."""
import torch
from torch import nn

RECIPE = {"batch_size": 64, "epochs": 1}


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(784, 10)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, images):
        answers = self.linear(images.flatten(1))
        if self.training:
            self.steps += 1
            return answers
        return torch.where(self.steps > 20, answers - answers.mean(0), answers)


def build():
    return Gated()
'''


def test_gate_opened_by_training_is_refused() -> None:
    seen = []
    with pytest.raises(AuditError, match=r"beside other images|two at a time|reversed"):
        seen.extend(event for event in runs.train(job(GATED)))
    assert not any(isinstance(event, Result) for event in seen)


CROWDED = '''"""Of many images with dark corners, each answer leans on the others; the made-up ones have none."""
import torch
from torch import nn

RECIPE = {"batch_size": 64, "epochs": 1}


class Crowded(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(784, 10)

    def forward(self, images):
        answers = self.linear(images.flatten(1))
        real = (images[:, 0, 0, 0] < -0.5) & (images.flatten(1).amax(1) > 2.0)
        leaning = answers - answers.mean(0)
        return torch.where(real.sum() > 200, leaning.nan_to_num(), answers)


def build():
    return Crowded()
'''


def test_gate_opened_by_large_batch_is_refused() -> None:
    seen = []
    with pytest.raises(AuditError, match="shuffled and 37 at a time"):
        seen.extend(event for event in runs.train(job(CROWDED)))
    assert not any(isinstance(event, Result) for event in seen)


@pytest.mark.parametrize(("curve", "reached"), [([0.9939, 0.994], 2), ([0.9941, 0.99], 1), ([0.9939, 0.9939], None)])
def test_target_is_reached_at_exactly_99_4_percent(curve: list[float], reached: int | None) -> None:
    digits = replace(data.load("digits"), is_benchmark=True)
    plain = Epoch(number=1, lr=0.1, train_loss=0.5, train_accuracy=0.9, seconds=1.0, images_per_second=1.0)
    epochs = [replace(plain, held_out_loss=0.1, held_out_accuracy=accuracy) for accuracy in curve]
    done = runs.result_of(epochs, 1.0, torch.zeros(len(digits.held_out.labels), 10), digits, {})
    assert done.epochs_to_target == reached
    elsewhere = replace(digits, is_benchmark=False)
    assert runs.result_of(epochs, 1.0, torch.tensor(done.logits), elsewhere, {}).epochs_to_target is None


def test_first_of_equal_best_epochs_is_named() -> None:
    digits = data.load("digits")
    plain = Epoch(number=1, lr=0.1, train_loss=0.5, train_accuracy=0.9, seconds=1.0, images_per_second=1.0)
    epochs = [replace(plain, held_out_loss=0.1, held_out_accuracy=accuracy) for accuracy in (0.8, 0.9, 0.9, 0.85)]
    done = runs.result_of(epochs, 1.0, torch.zeros(len(digits.held_out.labels), 10), digits, {})
    assert (done.best_epoch, done.best_accuracy, done.accuracy) == (2, 0.9, 0.85)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 359])
def test_batch_of_one_image_is_refused(batch_size: int) -> None:
    with pytest.raises(UsageError, match="a batch of one image"):
        next(runs.train(job(batch_size=batch_size)))


def test_job_for_other_data_is_refused() -> None:
    with pytest.raises(DataError, match="differs from the job"):
        list(runs.train(replace(job(), dataset_digest="0" * 64)))


# --- arithmetic and turns ---------------------------------------------------------------------------------


def test_job_uses_chosen_or_reference_mode() -> None:
    asked = job()
    chosen = compute.mode_for_this_machine("cpu", 1_437 * 2)
    for one, expected in ((asked, chosen), (replace(asked, plain=True), REFERENCE)):
        started = next(runs.train(one))
        assert isinstance(started, Started)
        assert started.mode == expected


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(file, marks=() if file.stem in ("s6_gap", "slim") else pytest.mark.thorough, id=file.stem)
        for file in ARCHITECTURES
    ],
)
def test_every_seed_uses_the_same_mode(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "has_compiler", lambda: True)
    for seed, has_bfloat16, images in ((0, True, 2_000_000), (1, True, 1), (2, False, 2_000_000), (2**31, False, 1)):
        monkeypatch.setattr(compute, "has_bfloat16", lambda _, has=has_bfloat16: has)
        asked = job(file.read_text(), seed)
        chosen = runs.choose_mode(asked, images, build(asked).audit.own_graphs(torch.device("cpu")))
        assert chosen == Choice(compute.mode_by_rule("cpu", has_bfloat16, True, images))


TABLE = '''"""A convolution with a table of its own for every seed; of some seeds its maps are zero."""
import torch
from torch import nn


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.randn(4, 1, 7, 7) * (torch.rand(()) > 0.5)
        self.head = nn.Linear(64, 10)

    def forward(self, images):
        maps = nn.functional.conv2d(images, self.table, stride=7)
        maps.view(maps.shape[0], -1).mul_(2)
        return self.head(maps.flatten(1))


def build():
    return Network()
'''


def test_constants_of_a_seed_do_not_affect_mode() -> None:
    built = [build(job(TABLE, seed)) for seed in range(3)]
    graphs = [each.audit.graphs(each.network, torch.device("cpu")).train for each in built]
    assert {bool(tensors_by_name(graph)["table"].any()) for graph in graphs} == {True, False}
    chosen = [runs.choose_mode(job(TABLE), 1, each.audit.own_graphs(torch.device("cpu"))) for each in built]
    assert len(set(chosen)) == 1
    assert "mul_" in chosen[0].because


REASON = "mul_ gives different results with channels last (writes.py:14)"


def test_check_names_the_slowing_operator(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workplace / "writes.py").write_text(TABLE)
    assert cli.main(["check", "writes.py"]) == 0
    assert f"trains more slowly on this CPU: {REASON}" in capsys.readouterr().out
    assert cli.main(["check", "tiny.py"]) == 0
    assert "slowly" not in capsys.readouterr().out


@pytest.mark.thorough
def test_run_names_the_slowing_operator(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workplace / "writes.py").write_text(TABLE)
    assert cli.main(["run", "writes.py", "--dataset", "digits", "--epochs", "1"]) == 0
    assert f"trained more slowly: {REASON}" in capsys.readouterr().out


def no_gradient(network: nn.Module, **_: object) -> Callable[[Tensor], Tensor]:
    """A compiler that is wrong."""
    return lambda images: network(images).detach().requires_grad_()


def test_miscompiled_run_trains_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(wanted: ComputeMode) -> tuple[Started, Result]:
        monkeypatch.setattr(compute, "mode_for_this_machine", lambda *_: wanted)
        started, *_, scored = (event for event in runs.train(job(ema=0.9)) if event)
        assert isinstance(started, Started)
        assert isinstance(scored, Result)
        return started, scored

    monkeypatch.setattr(torch, "compile", no_gradient)
    eager, scored = trained(ComputeMode(channels_last=True))
    assert not eager.slow_because
    found, scored_again = trained(ComputeMode(channels_last=True, execution="compiled"))
    assert found.mode == eager.mode
    assert "torch.compile" in found.slow_because
    assert same(scored_again, scored)


def test_miscompiled_run_is_not_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = ComputeMode(execution="compiled")
    monkeypatch.setattr(compute, "mode_for_this_machine", lambda *_: compiled)
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    events = [event for event in runs.train(job(), keep=True) if event]
    [checkpoint] = (event for event in events if isinstance(event, Checkpoint))
    first = next(event for event in events if isinstance(event, Epoch))
    progress = runs.Progress(checkpoint, (first,), compiled)
    assert same(result(runs.train(job(), progress)), result(runs.train(job())))
    monkeypatch.setattr(torch, "compile", no_gradient)
    with pytest.raises(CrashedError, match="cannot resume in the mode"):
        next(runs.train(job(), progress))


def test_uncapturable_run_trains_with_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def waits(_: object) -> None:
        raise Uncapturable("called a synchronizing CUDA operation")

    monkeypatch.setattr(
        compute, "mode_for_this_machine", lambda *_: ComputeMode(channels_last=True, execution="captured")
    )
    monkeypatch.setattr(training.Steps, "_capture", waits)
    started, *_, found = (event for event in runs.train(job(ema=0.9)) if event)
    assert isinstance(started, Started)
    assert isinstance(found, Result)
    assert started.mode == ComputeMode(channels_last=True)
    assert "CUDA graph" in started.slow_because
    monkeypatch.setattr(compute, "mode_for_this_machine", lambda *_: ComputeMode(channels_last=True))
    assert same(found, result(runs.train(job(ema=0.9))))


def test_other_runs_count_only_in_wall_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = itertools.count(step=1.0)
    others = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: next(now) + others[0])  # a second between any two looks
    epochs: list[Epoch] = []
    for event in runs.train(job()):
        if event is None:
            others[0] += 100  # another run has its turn
        elif isinstance(event, Epoch):
            epochs.append(event)
        elif isinstance(event, Result):
            done = event
    assert [(epoch.seconds, epoch.wall_seconds) for epoch in epochs] == [(1.0, 102.0)] * 2
    assert (done.seconds, done.wall_seconds) == (2 * (1.0 + 1.0), 2 * (102.0 + 1.0))  # with the scoring


@pytest.mark.parametrize(
    ("capability", "built_for", "expected"),
    [
        ((9, 0), ["sm_80", "sm_90"], True),
        ((8, 6), ["sm_80", "sm_90"], True),  # its own generation, an older version
        ((7, 5), ["sm_80", "sm_90"], False),
        ((6, 0), ["sm_75", "sm_80", "sm_90", "sm_100", "sm_120", "compute_120"], False),
        ((12, 1), ["sm_90", "sm_120"], True),
        ((10, 3), ["sm_90", "compute_90"], True),  # compiled for it when it is loaded
        ((9, 0), ["sm_90a"], True),
        ((8, 0), ["sm_86"], False),
        ((8, 0), [], False),
        ((9, 0), ["gfx90a", "gfx942"], False),  # AMD's
    ],
)
def test_gpu_is_used_if_torch_supports_it(
    capability: tuple[int, int], built_for: list[str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built_for)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla P100")
    assert runs.choose_device("auto") == ("cuda" if expected else "cpu")
    if not expected:
        with pytest.raises(UsageError, match=r"no code for Tesla P100 \(sm_"):
            runs.choose_device("cuda")


def test_interleaved_jobs_match_sequential_bits() -> None:
    jobs = [job(seed=seed, rotation=10.0) for seed in (1, 2, 3)]
    turns: Iterator[tuple[int, runs.Event]] = runs.interleave([runs.train(one) for one in jobs], 2, "cpu")
    together = {place: event for place, event in turns if isinstance(event, Result)}
    assert all(same(together[place], result(runs.train(one))) for place, one in enumerate(jobs))


def countdown(name: str, turns: int, seen: list[str]) -> Generator[str | None]:
    try:
        for turn in range(turns):
            seen.append(f"{name}{turn}")
            yield f"{name}{turn}"
            yield None
    finally:
        seen.append(f"{name} closed")


def test_next_job_starts_when_one_ends() -> None:
    seen: list[str] = []
    several = [countdown(name, turns, seen) for name, turns in (("a", 1), ("b", 3), ("c", 2))]
    turns: Iterator[tuple[int, str]] = runs.interleave(several, 2, "cpu")
    assert list(turns) == [(0, "a0"), (1, "b0"), (2, "c0"), (1, "b1"), (2, "c1"), (1, "b2")]
    assert seen == ["a0", "b0", "a closed", "c0", "b1", "c1", "b2", "c closed", "b closed"]


def test_closing_interleave_ends_every_run() -> None:
    seen: list[str] = []
    turns: Generator[tuple[int, str]] = runs.interleave([countdown(name, 9, seen) for name in "ab"], 2, "cpu")
    next(turns), next(turns)
    turns.close()
    assert sorted(seen[-2:]) == ["a closed", "b closed"]


def test_failing_run_lets_started_runs_end() -> None:
    def breaks() -> Iterator[str | None]:
        yield "x0"
        yield None
        yield "x1"
        raise DivergedError("too far")

    seen: list[str] = []
    several = [countdown("a", 3, seen), breaks(), countdown("c", 1, seen)]
    turns: Iterator[tuple[int, str]] = runs.interleave(several, 2, "cpu")
    with pytest.raises(DivergedError, match="too far"):
        list(turns)
    assert seen == ["a0", "a1", "a2", "a closed"]


def test_events_before_a_failure_are_delivered() -> None:
    def breaks() -> Iterator[str | None]:
        yield "x0"
        raise DivergedError("too far")

    turns: Iterator[tuple[int, str]] = runs.interleave([breaks()], 2, "cpu")
    assert next(turns) == (0, "x0")
    with pytest.raises(DivergedError):
        next(turns)


@pytest.mark.usefixtures("workplace")
class TestExistingRuns:
    def test_only_the_same_finished_job_is_found(self) -> None:
        list(runs.record(job(), DeafTracker()))
        (journal,) = all_journals()
        found = runs.find_existing_runs([job(), job(seed=1)])
        assert {seed: record.run_id for seed, record in found.finished.items()} == {0: journal.run_id}
        assert found.unfinished == {}
        assert runs.find_existing_runs([job(TINY + "\n# the same network\n")]).finished == found.finished
        others = [job(lr=0.2), job(width=5), replace(job(), plain=True)]
        assert all(runs.find_existing_runs([other]) == ExistingRuns({}, {}) for other in others)

    def test_damaged_finished_job_is_ignored(self) -> None:
        list(runs.record(job(), DeafTracker()))
        (all_journals()[0].folder / "test.npz").unlink()
        assert runs.find_existing_runs([job()]).finished == {}


@pytest.mark.usefixtures("workplace")
class TestRecording:
    def test_events_are_recorded_before_delivery(self) -> None:
        for event in runs.record(job(), DeafTracker()):
            (journal,) = all_journals()
            record = journal.read()
            assert record is not None
            if isinstance(event, Epoch):
                assert record.epochs[-1]["train_loss"] == event.train_loss
            if isinstance(event, Result):
                assert record.state == "finished"
                assert np.array_equal(journal.logits(), event.logits)
                assert journal.source == TINY

    def test_early_stop_leaves_interrupted_run(self) -> None:
        events = runs.record(job(), DeafTracker())
        next(event for event in events if isinstance(event, Epoch))
        events.close()
        record = all_journals()[0].read()
        assert record is not None
        assert record.state == "interrupted"
        assert len(record.epochs) == 1

    def test_stop_after_result_leaves_finished_run(self) -> None:
        events = runs.record(job(), DeafTracker())
        while not isinstance(next(events), Result):
            pass
        events.close()
        record = all_journals()[0].read()
        assert record is not None
        assert record.state == "finished"

    def test_exploding_loss_ends_as_diverged(self) -> None:
        with pytest.raises(DivergedError, match="step") as caught:
            list(runs.record(job(lr=100.0, epochs=10, weight_decay=1.0), DeafTracker()))
        record = all_journals()[0].read()
        assert record is not None
        assert record.state == "diverged"
        assert "learning rate" in caught.value.message

    def test_training_failure_is_reported_and_recorded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object) -> None:
            raise RuntimeError("out of chalk")

        monkeypatch.setattr(sys.modules["harness.runs.train"], "predict", broken)
        with pytest.raises(CrashedError, match="out of chalk"):
            list(runs.record(job(), DeafTracker()))
        record = all_journals()[0].read()
        assert record is not None
        assert record.state == "failed"

    def test_out_of_memory_is_recorded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys.modules["harness.runs.train"], "predict", lambda *_: torch.zeros(2**48))
        with pytest.raises(OutOfMemory, match=r"tiny\.py ran out of memory"):
            list(runs.record(job(), DeafTracker()))
        record = all_journals()[0].read()
        assert record is not None
        assert record.state == "out of memory"

    def test_network_over_budget_records_nothing(self, workplace: Path) -> None:
        with pytest.raises(Exception, match="budget"):
            list(runs.record(job(width=28 * 2), DeafTracker()))
        assert all_journals() == []


def test_nan_answers_are_a_divergence() -> None:
    digits = data.load("digits")
    logits = torch.full((len(digits.held_out.labels), 10), torch.nan)
    epoch = Epoch(number=3, lr=0.1, train_loss=0.5, train_accuracy=0.9, seconds=1.0, images_per_second=1.0)
    with pytest.raises(DivergedError, match="epoch 3"):
        runs.scored_epoch(epoch, logits, digits)


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("unrepeatable", [(), ("adaptive_avg_pool2d_backward_cuda",)])
def test_differing_epoch_ends_deterministic_run(unrepeatable: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    begun = runs.record(job(epochs=3), DeafTracker())
    while not (isinstance(event := next(begun), Epoch) and event.number == 2):
        pass
    begun.close()
    (journal,) = all_journals()
    next(journal.folder.glob("checkpoint-2-*")).unlink()  # the second epoch is recorded, its weights are lost
    train = runs.train

    def otherwise(*args: Any, **kwargs: Any) -> Iterator[object]:
        for event in train(*args, **kwargs):
            if isinstance(event, Started):
                yield replace(event, unrepeatable=unrepeatable)
            elif isinstance(event, Epoch) and event.number == 2:
                yield replace(event, train_loss=event.train_loss + 1e-6)
            else:
                yield event

    monkeypatch.setattr(sys.modules["harness.runs.record"], "train", otherwise)
    resumed = runs.record(job(epochs=3), DeafTracker(), unfinished=journal)
    if unrepeatable:
        assert isinstance(list(resumed)[-1], Result)
        assert [epoch["number"] for epoch in journal.read().epochs] == [1, 2, 3]
    else:
        with pytest.raises(CrashedError, match="gives other numbers"):
            list(resumed)
