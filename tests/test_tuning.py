"""Studies: the same trials however they were interrupted, nothing trained that need not be, nothing lost."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import optuna
import pytest
from mlflow import MlflowClient
from pebble import ProcessExpired
from test_recorded_names import FILES

from harness import cli, data, leaderboard, plugins, runs, tracking, training, tuning, watchdog, workers
from harness.cli import tune as tune_command
from harness.errors import CrashedError, DataError, UsageError
from harness.events import Epoch, StudyRecord, Trial
from harness.journal import all_journals
from harness.plugins import settings_text
from harness.runs import TrialRequest
from harness.runs.trial import _is_hopeless
from harness.spec import BUDGET, Job, Knob
from harness.tuning import Search, tune
from harness.tuning.batch import _median_by_epoch, _outcomes

pytestmark = pytest.mark.usefixtures("undrawn")

STUDIES = sorted((Path(__file__).parent.parent / "studies").glob("*.py"))
STUDY = '''"""Learning rate, dropout and width of a linear layer."""
ARCHITECTURE = "tiny.py"


def suggest(trial):
    return {
        "lr": trial.suggest_float("lr", 1e-3, 1.0, log=True),
        "dropout": trial.suggest_float("dropout", 0.0, 0.5),
        "width": trial.suggest_int("width", 2, 60, step=2),
    }
'''
TWO_CHOICES = STUDY.replace(
    'trial.suggest_float("lr", 1e-3, 1.0, log=True)', '[0.1, 0.2][trial.suggest_int("n", 0, 1)]'
)
TWO_CHOICES = "\n".join(line for line in TWO_CHOICES.splitlines() if '"dropout"' not in line and '"width"' not in line)


@pytest.fixture
def workshop(workplace: Path) -> Path:
    (workplace / "study.py").write_text(STUDY)
    return workplace


def search(path: str = "study.py", **changes: Any) -> Search:
    study = plugins.load_study(path)
    made = Search(study, data.load("digits", "validation"), 2, 0, study.sampler, study.pruner, "cpu")
    return replace(made, **changes)


def run(*arguments: str) -> int:
    return cli.main(["tune", "study.py", "--dataset", "digits", "--epochs", "1", "--jobs", "2", *arguments])


def cached(record: StudyRecord) -> list[tuple[object, ...]]:
    """What of a study must not depend on how it came about."""
    return [(t.number, t.state, t.value, t.settings, t.same_as, len(t.epochs)) for t in record.trials]


def pending(number: int, epoch: Epoch) -> None:
    """Ignore the news of a trial."""


class FakeWorkers(workers.Processes):
    """Makes up what training would give, in this process and in no time."""

    trained: ClassVar[list[int]] = []

    def __init__(self, count: int = 1, device: str = "cpu", hang_timeout: float = 1, auditors: int = 0) -> None:
        self.together = 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def wait(self, running: Iterable[Future[list[Trial]]], seconds: float) -> set[Future[list[Trial]]]:
        return {future for future in running if future.done()}

    def news(self) -> list[workers.News]:
        return []

    def submit(self, asked: Sequence[TrialRequest], medians: Mapping[int, float]) -> Future[list[Trial]]:
        self.trained.extend(number for number, _, _ in asked)
        future: Future[list[Trial]] = Future()
        future.set_result([self.attempt(*one, medians) for one in asked])
        return future

    def attempt(self, number: int, settings: Mapping[str, Knob], job: Job, medians: Mapping[int, float]) -> Trial:
        parameters = 12 * int(job.knobs["width"]) ** 2 + 10
        if parameters > BUDGET.parameters:
            return Trial(number, "infeasible", None, settings, parameters=parameters, reason="too wide")
        final = 1 - abs(math.log10(job.recipe.lr) + 1) / 3 - float(job.knobs["dropout"]) / 4
        whole = _curve(number, [final - 0.1 / (epoch + 1) for epoch in range(job.recipe.epochs)])
        for epoch in range(1, job.recipe.epochs):
            if _is_hopeless(whole.epochs[:epoch], medians):
                value = whole.epochs[epoch - 1].held_out_accuracy
                return Trial(number, "pruned", value, settings, whole.epochs[:epoch], parameters, "slow")
        return replace(whole, settings=settings, parameters=parameters)


class DirectWorkers(FakeWorkers):
    """Trains in this process."""

    def attempt(self, number: int, settings: Mapping[str, Knob], job: Job, medians: Mapping[int, float]) -> Trial:
        return runs.train_trials([(number, settings, job)], medians, pending)[0]


@pytest.fixture
def fake_workers(monkeypatch: pytest.MonkeyPatch) -> type[FakeWorkers]:
    FakeWorkers.trained.clear()
    monkeypatch.setattr(tune_command, "Processes", FakeWorkers)
    return FakeWorkers


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> type[DirectWorkers]:
    DirectWorkers.trained.clear()
    monkeypatch.setattr(tune_command, "Processes", DirectWorkers)
    return DirectWorkers


def finish(made: Search, trials: int) -> StudyRecord:
    *_, last = tune(made, trials, tune_command.Processes(1, "cpu", 1_800))
    assert isinstance(last, StudyRecord)
    return last


# --- the same study, whatever happens ---------------------------------------------------------------------


@pytest.mark.usefixtures("fake_workers")
class TestReproducibility:
    def test_study_finishes_requested_number_of_trials(self, workshop: Path) -> None:
        record = finish(search(), 13)
        assert record.state == "finished"
        assert [trial.number for trial in record.trials] == list(range(13))
        assert all(trial.state in tuning.COUNTED for trial in record.trials)

    def test_only_the_same_seed_gives_the_same_study(self, workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = finish(search(), 13)
        (workshop / "mlruns" / "studies").rename(workshop / "elsewhere")
        assert cached(finish(search(), 13)) == cached(first)
        assert cached(finish(search(seed=1), 13)) != cached(first)

    @pytest.mark.parametrize("every", [1, 4, 11])
    def test_interruptions_do_not_change_study(
        self, workshop: Path, fake_workers: type[FakeWorkers], every: int
    ) -> None:
        whole = finish(search(), 33)
        assert {trial.state for trial in whole.trials} == {"complete", "pruned", "infeasible"}
        (workshop / "mlruns" / "studies").rename(workshop / "elsewhere")
        fake_workers.trained.clear()
        for longer in range(every, 200, every):  # what was kept is said again, so each time takes longer
            events = tune(search(), 33, fake_workers())
            said = list(itertools.islice(events, longer))
            events.close()  # type: ignore[attr-defined]
            if isinstance(said[-1], StudyRecord) and said[-1].state == "finished":
                break
        assert longer > every
        assert cached(said[-1]) == cached(whole)

    def test_finishing_order_does_not_change_study(
        self, workshop: Path, fake_workers: type[FakeWorkers], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = finish(search(), 33)
        (workshop / "mlruns" / "studies").rename(workshop / "elsewhere")

        def last_first(_: object, running: dict[Future[list[Trial]], object], __: float) -> set[Future[list[Trial]]]:
            return {list(running)[-1]}

        monkeypatch.setattr(fake_workers, "wait", last_first)
        assert cached(finish(search(), 33)) == cached(whole)

    def test_extended_study_equals_longer_study(self, workshop: Path) -> None:
        whole = finish(search(), 27)
        (workshop / "mlruns" / "studies").rename(workshop / "elsewhere")
        for trials in (1, 7, 14, 27):
            again = finish(search(), trials)
        assert cached(again) == cached(whole)

    @pytest.mark.parametrize(
        "change",
        [{"seed": 1}, {"epochs": 3}, {"sampler": "random"}, {"pruner": "none"}, {"epochs": None}],
    )
    def test_changed_setting_starts_new_study(self, workshop: Path, change: dict[str, Any]) -> None:
        assert search(**change).id != search().id

    def test_changed_file_starts_new_study(self, workshop: Path) -> None:
        first = search().id
        (workshop / "study.py").write_text(STUDY + "\n# more\n")
        second = search().id
        (workshop / "tiny.py").write_text((workshop / "tiny.py").read_text() + "\n# more\n")
        assert len({first, second, search().id}) == 3

    def test_study_accepts_one_process_only(self, workshop: Path) -> None:
        with tuning.alone(search()), pytest.raises(UsageError, match="Another process"):
            finish(search(), 1)


# --- what is trained --------------------------------------------------------------------------------------


def test_study_loads_no_test_image(
    workshop: Path, direct: type[DirectWorkers], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    load = data.load
    monkeypatch.setattr(data, "load", lambda name, held_out="test": asked.append(held_out) or load(name, held_out))
    assert run("--trials", "3") == 0
    assert set(asked) == {"validation"}


def test_network_over_budget_is_not_trained(
    workshop: Path, direct: type[DirectWorkers], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "fit", lambda *_: pytest.fail("trained"))
    text = STUDY.replace('"width", 2, 60, step=2', '"width", 42, 44')
    (workshop / "study.py").write_text(text)
    record = finish(search(), 3)
    assert {(trial.state, trial.value) for trial in record.trials} == {("infeasible", None)}
    for trial in record.trials:
        assert trial.parameters == 12 * int(trial.settings["width"]) ** 2 + 10 > BUDGET.parameters
    (log,) = tuning.studies_folder().glob("*/study.log")
    for frozen, trial in zip(tuning.Log.read(log.parent).study.trials, record.trials, strict=True):
        assert trial.parameters
        assert frozen.system_attrs["constraints:parameters"] == trial.parameters - BUDGET.parameters


def test_equal_settings_are_trained_once(workshop: Path, fake_workers: type[FakeWorkers]) -> None:
    (workshop / "study.py").write_text(TWO_CHOICES)
    record = finish(search(), 14)
    assert len(fake_workers.trained) == 2
    by_rate: dict[object, list[Trial]] = {}
    for trial in record.trials:
        by_rate.setdefault(trial.settings["lr"], []).append(trial)
    for first, *others in by_rate.values():
        assert first.same_as is None
        assert others
        assert {(trial.same_as, trial.value) for trial in others} == {(first.number, first.value)}


def test_trial_seeds_differ_from_run_seeds(workshop: Path) -> None:
    asked = tuning.Proposer(search(), []).ask(3)
    assert [trial.job.seed for trial in asked if trial.job] == [1_000_000, 1_000_001, 1_000_002]


def test_pruning_matches_optuna_median_pruner() -> None:
    lots = random.Random(0)
    done = [_curve(number, [lots.random() for _ in range(6)]) for number in range(7)]
    medians = _median_by_epoch(done)
    pruner = optuna.pruners.MedianPruner()
    study = optuna.create_study(direction="maximize", pruner=pruner)
    for trial in done:
        values = {epoch.number: epoch.held_out_accuracy or 0.0 for epoch in trial.epochs}
        study.add_trial(optuna.trial.create_trial(value=trial.value, intermediate_values=values))
    for _ in range(50):
        asked, epochs = study.ask(), _curve(0, [lots.random() for _ in range(6)]).epochs
        for number, epoch in enumerate(epochs, 1):
            asked.report(epoch.held_out_accuracy or 0.0, number)
            assert _is_hopeless(epochs[:number], medians) == asked.should_prune()


def test_pruning_needs_five_complete_trials() -> None:
    assert _median_by_epoch([_curve(number, [0.9]) for number in range(4)]) == {}


def _curve(number: int, accuracies: Sequence[float]) -> Trial:
    epochs = tuple(
        Epoch(n, 0.1, 0.5, 0.8, 1.0, 1.0, held_out_loss=0.5, held_out_accuracy=accuracy)
        for n, accuracy in enumerate(accuracies, 1)
    )
    return Trial(number, "complete", accuracies[-1], {}, epochs)


# --- what goes wrong --------------------------------------------------------------------------------------

BREAKS = '''"""A linear layer that breaks for some widths."""
import os
from torch import nn

RECIPE = {"batch_size": 64, "lr": 0.1, "epochs": 1}


def build(*, width: int = 7) -> nn.Module:
    if width % 2:
        CRASH
    return nn.Sequential(nn.AdaptiveAvgPool2d(width), nn.Flatten(), nn.Linear(width * width, 10))
'''
WIDTHS = '''"""Widths."""
ARCHITECTURE = "breaks.py"


def suggest(trial):
    return {"width": trial.suggest_int("width", LOW, 30)}
'''


@pytest.mark.thorough
def test_crashed_process_loses_only_its_trial(workshop: Path) -> None:
    (workshop / "breaks.py").write_text(BREAKS.replace("CRASH", "os._exit(3)").replace("width % 2", "width == 17"))
    (workshop / "study.py").write_text(WIDTHS.replace("LOW", "2"))
    *_, record = tune(search(), 4, workers.Processes(2, "cpu", 1_800))
    assert isinstance(record, StudyRecord)
    died = [trial for trial in record.trials if trial.state == "failed"]
    assert died
    assert all(trial.reason.startswith("breaks.py ended by itself, with code 3.") for trial in died)
    assert {trial.settings["width"] for trial in died} == {17}
    assert sum(trial.state == "complete" for trial in record.trials) == 4


@pytest.mark.thorough
def test_hung_trial_is_ended_and_study_continues(workshop: Path) -> None:
    (workshop / "breaks.py").write_text(BREAKS.replace("CRASH", "while width: pass").replace("width % 2", "width > 15"))
    (workshop / "study.py").write_text(WIDTHS.replace("LOW", "2"))
    asked = tuning.Proposer(search(), []).ask(20)
    hanging = next(one for one in asked if int(one.settings["width"]) > 15)
    fine = next(one for one in asked if int(one.settings["width"]) <= 15)
    with workers.Processes(1, "cpu", hang_timeout=20) as hired:
        futures = [(one, hired.submit([(one.number, one.settings, one.job)], {})) for one in (hanging, fine) if one.job]
        for _, future in futures:
            while not hired.wait([future], 60):
                pass
            hired._hang_timeout = 600  # the other one need not hurry
        (lost,), (trained,) = (_outcomes([one], future, hired.why_lost(future)) for one, future in futures)
    assert lost.reason.startswith("breaks.py did not end within 10 s at breaks.py:10.")
    assert trained.state == "complete"


def test_waiting_driver_does_not_count_as_hung(
    workshop: Path, fake_workers: type[FakeWorkers], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    log.touch()
    monkeypatch.setattr(watchdog, "_log", log)
    beats = []

    class Slow(fake_workers):
        def wait(self, running: Iterable[Future[list[Trial]]], seconds: float) -> set[Future[list[Trial]]]:
            beats.append(log.stat().st_mtime)
            return super().wait(running, seconds)

    monkeypatch.setattr(tune_command, "Processes", Slow)
    finish(search(), 4)
    assert beats
    assert not any(beats)  # paused, not late
    assert log.stat().st_mtime > 0


def test_machine_failure_fails_no_trial(
    workshop: Path, fake_workers: type[FakeWorkers], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = cached(finish(search(), 4))
    (workshop / "mlruns" / "studies").rename(workshop / "elsewhere")

    def no_room(*_: object) -> Future[list[Trial]]:
        future: Future[list[Trial]] = Future()
        future.set_exception(OSError("No space left on device"))
        return future

    with monkeypatch.context() as patch:
        patch.setattr(fake_workers, "submit", no_room)
        with pytest.raises(CrashedError, match="could not be trained: OSError: No space"):
            finish(search(), 4)
    assert cached(finish(search(), 4)) == whole


def test_trials_of_crashed_process_are_retrained(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Shared(FakeWorkers):
        """Three trials in one process, which dies of the fifth."""

        def __init__(self, count: int, device: str, hang_timeout: float, auditors: int = 0) -> None:
            self.together = 3

        def submit(self, asked: Sequence[TrialRequest], medians: Mapping[int, float]) -> Future[list[Trial]]:
            future: Future[list[Trial]] = Future()
            if 4 in (number for number, _, _ in asked):
                future.set_exception(ProcessExpired("died", code=-11, pid=0))
                return future
            return super().submit(asked, medians)

        def why_lost(self, done: Future[list[Trial]]) -> str | None:
            expired = done.exception()
            return f"signal {-expired.exitcode}" if isinstance(expired, ProcessExpired) else None

    monkeypatch.setattr(tune_command, "Processes", Shared)
    record = finish(search(), 8)
    assert {trial.number: trial.reason for trial in record.trials if trial.state == "failed"} == {4: "signal 11"}


@pytest.mark.usefixtures("direct")
class TestFailedTrials:
    def test_failed_trial_is_kept_with_reason(self, workshop: Path) -> None:
        (workshop / "breaks.py").write_text(BREAKS.replace("CRASH", "raise RuntimeError('odd')"))
        (workshop / "study.py").write_text(WIDTHS.replace("LOW", "2"))
        record = finish(search(), 4)
        states = Counter(trial.state for trial in record.trials)
        assert states["complete"] == 4
        assert states["failed"] > 0
        assert all("odd" in trial.reason for trial in record.trials if trial.state == "failed")

    def test_consecutive_failures_stop_the_study(self, workshop: Path) -> None:
        (workshop / "breaks.py").write_text(BREAKS.replace("CRASH", "pass").replace("width % 2", "True"))
        (workshop / "breaks.py").write_text(BREAKS.replace("if width % 2:", "if width != 7:").replace("CRASH", "1 / 0"))
        (workshop / "study.py").write_text(WIDTHS.replace("LOW", "8"))
        with pytest.raises(CrashedError, match=r"\d+ trials in a row failed, the last one: .*division by zero"):
            finish(search(), 50)

    def test_consecutive_failures_stop_a_large_batch_early(
        self, workshop: Path, fake_workers: type[FakeWorkers], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def attempt(_: object, number: int, settings: Mapping[str, Knob], *__: object) -> Trial:
            lost = "failed" if number >= 3 else "complete"
            return Trial(number, lost, 0.5 if lost == "complete" else None, settings, reason="odd")

        def first_alone(_: object, running: Iterable[Future[list[Trial]]], __: float) -> set[Future[list[Trial]]]:
            return {next(iter(running))}

        monkeypatch.setattr(fake_workers, "attempt", attempt)
        monkeypatch.setattr(fake_workers, "wait", first_alone)
        with pytest.raises(CrashedError, match="5 trials in a row failed"):
            list(tune(search(batch=100), 100, fake_workers()))
        (record,) = tuning.records()
        assert [trial.state for trial in record.trials] == ["complete"] * 3 + ["failed"] * 5

    def test_diverged_trial_is_kept(self, workshop: Path) -> None:
        text = STUDY.replace("1e-3, 1.0, log=True", "99.0, 100.0").replace(
            '"lr":', '"weight_decay": 1.0, "epochs": 9, "lr":'
        )
        (workshop / "study.py").write_text(text)
        asked = tuning.Proposer(search(), []).ask(1)[0]
        assert asked.job
        assert [trial.state for trial in runs.train_trials([(0, {}, asked.job)], {}, pending)] == ["diverged"]


def test_interleaved_trials_match_single_trials(workshop: Path) -> None:
    asked = [(one.number, one.settings, one.job) for one in tuning.Proposer(search(), []).ask(4) if one.job]
    assert len(asked) > 1

    def cached(trials: list[Trial]) -> list[tuple[object, ...]]:
        return [(trial.number, trial.state, trial.value, trial.settings) for trial in trials]

    alone = [runs.train_trials([one], {}, pending)[0] for one in asked]
    assert cached(runs.train_trials(asked, {}, pending)) == cached(alone)


class TestDamagedLog:
    @pytest.fixture
    def log(self, workshop: Path, fake_workers: type[FakeWorkers]) -> Path:
        finish(search(), 5)
        (file,) = tuning.studies_folder().glob("*/study.log")
        return file

    def test_reading_leaves_torn_log_unchanged(self, log: Path) -> None:
        before = cached(finish(search(), 5))
        log.write_bytes(log.read_bytes()[:-40])
        torn = log.read_bytes()
        assert [len(record.trials) for record in tuning.records()] == [4]
        assert log.read_bytes() == torn
        assert cached(finish(search(), 5)) == before

    @pytest.mark.parametrize("line", ["{}", '{"op_code": 99, "worker_id": "x"}'])
    def test_foreign_json_line_is_refused(self, log: Path, line: str) -> None:
        with log.open("a") as file:
            file.write(line + "\n")
        with pytest.raises(DataError, match="damaged"):
            finish(search(), 6)
        with pytest.raises(DataError, match="damaged"):
            list(tuning.records())

    @pytest.mark.parametrize("change", [{"state": "bogus"}, {"value": "0.9"}, {"value": 7.5}, {"parameters": "x"}])
    def test_impossible_outcome_is_retrained(self, log: Path, change: dict[str, Any]) -> None:
        (asked,) = tuning.Proposer(search(), tuning.Log.read(log.parent).study.trials).ask(1)
        trial = Trial(asked.number, "complete", 0.5, asked.settings, parameters=10)
        reader = tuning.Log.read(log.parent)
        reader.cache(trial)
        assert reader.cached(asked) == trial
        file = log.parent / f"{asked.number}.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
        assert reader.cached(asked) is None

    def test_torn_last_line_is_retrained(self, log: Path) -> None:
        whole = log.read_bytes()
        before = cached(finish(search(), 5))
        log.write_bytes(whole[:-40])
        assert cached(finish(search(), 5)) == before

    def test_damage_in_the_middle_is_refused(self, log: Path) -> None:
        lines = log.read_bytes().splitlines(keepends=True)
        lines[4] = b"{torn\n"
        log.write_bytes(b"".join(lines))
        with pytest.raises(DataError, match="Line 5"):
            finish(search(), 5)
        assert log.read_bytes() == b"".join(lines)

    def test_log_without_a_trial_is_refused(self, log: Path) -> None:
        lines = log.read_bytes().splitlines(keepends=True)
        trials = [n for n, line in enumerate(lines) if b'"trial_id"' not in line and b"distributions" in line]
        log.write_bytes(b"".join(lines[: trials[1]] + lines[trials[1] + 1 :]))
        with pytest.raises(DataError, match="lacks a trial"):
            finish(search(), 6)

    def test_foreign_line_is_refused(self, log: Path) -> None:
        log.write_bytes(log.read_bytes() + b"[]\n")
        with pytest.raises(DataError, match="is damaged"):
            finish(search(), 6)

    def test_stale_lock_does_not_block(self, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def never(seconds: float) -> None:
            pytest.fail(f"it waits for {seconds} seconds")

        (log.parent / "study.log.lock").symlink_to(log)
        monkeypatch.setattr(time, "sleep", never)  # Optuna alone would wait for 30 seconds
        finish(search(), 6)

    @pytest.mark.parametrize("left", ["{torn", "{}", "[1, 2]", '{"number": 5, "settings": {"lr": 9.0}}'])
    def test_damaged_or_foreign_outcome_is_retrained(
        self, log: Path, fake_workers: type[FakeWorkers], left: str
    ) -> None:
        fake_workers.trained.clear()
        (log.parent / "5.json").write_text(left)
        finish(search(), 6)
        assert fake_workers.trained == [5]
        assert not (log.parent / "5.json").exists()

    def test_sync_skips_and_names_damaged_study(self, log: Path, capsys: pytest.CaptureFixture[str]) -> None:
        other = finish(search(seed=1), 2)
        log.write_bytes(b"{torn\n" + log.read_bytes())
        assert cli.main(["sync"]) == 5
        assert f"{log} is damaged" in capsys.readouterr().err
        client = MlflowClient(tracking.tracking_uri())
        made = client.get_experiment_by_name("tune/digits/study")
        assert made
        shown = {run.data.tags["harness.run_id"] for run in client.search_runs([made.experiment_id])}
        assert shown == {other.run_id, f"{other.run_id}/0", f"{other.run_id}/1"}


# --- the command ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        (STUDY.replace('"width":', '"widht":'), 2, "Did you mean 'width'?"),
        (STUDY.replace('"lr":', '"lrr":'), 2, "Did you mean 'lr'?"),
        (STUDY.replace('"tiny.py"', '"tinny.py"'), 2, "There is no file tinny.py"),
        (STUDY.replace("ARCHITECTURE", "ARCHITECTUR"), 2, "misspelt ARCHITECTURE"),
        (STUDY.replace("def suggest", "def sugest"), 2, "misspelt suggest"),
        (STUDY.replace("    return {", "    1 / 0\n    return {"), 2, "suggest raised ZeroDivisionError"),
        (STUDY.replace("    return {", "    return [").replace("    }", "    ]").replace(":", "", 0), 2, "not Python"),
        ('"""Doc."""\nARCHITECTURE = "tiny.py"\ndef suggest(trial):\n    return None\n', 2, "not a dict"),
        (STUDY.replace('"dropout":', "5:"), 2, "suggest returned"),
        (STUDY.replace('trial.suggest_int("width", 2, 60, step=2)', "{7}"), 2, "set for 'width'"),
        (STUDY.replace('trial.suggest_int("width", 2, 60, step=2)', "10 ** 5000"), 2, "for 'width'"),
        (STUDY.replace('trial.suggest_int("width", 2, 60, step=2)', '"\\ud800"'), 2, "for 'width'"),
        (STUDY.replace('int("width", 2, 60, step=2)', 'categorical("w", [(7, 1), (8, 2)])[0]'), 2, "of type tuple"),
        (STUDY + 'PRUNER = "medain"\n', 2, "Did you mean 'median'?"),
        (STUDY.replace("1e-3, 1.0, log=True", "200.0, 300.0"), 2, "out of range"),
        (None, 2, "There is no file study.py"),
    ],
)
def test_invalid_study_is_refused_briefly(
    workshop: Path, capsys: pytest.CaptureFixture[str], text: str | None, code: int, words: str
) -> None:
    (workshop / "study.py").unlink() if text is None else (workshop / "study.py").write_text(text)
    assert run() == code
    printed = capsys.readouterr().err
    assert words in printed
    assert "Traceback" not in printed
    assert len(printed.splitlines()) <= 4
    assert not list((workshop / "mlruns").glob("studies/*/study.log"))


def test_misspelt_study_suggests_the_right_name(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workshop / "studies").mkdir()
    (workshop / "study.py").rename(workshop / "studies" / "widths.py")
    assert cli.main(["tune", "width", "--dataset", "digits"]) == 2
    assert "Did you mean 'widths'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--trials", "0"],
        ["--jobs", "0"],
        ["--epochs", "20"],
        ["--epochs", "0"],
        ["--timeout", "0"],
        ["--timeout", "inf"],
        ["--seed=-1"],
    ],
)
def test_numbers_out_of_range_are_refused(
    workshop: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert run(*arguments) == 2
    assert arguments[0].partition("=")[0] in capsys.readouterr().err


@pytest.mark.usefixtures("direct")
class TestCommand:
    def test_tune_prints_winner_gain_and_confirming_command(
        self, workshop: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("--trials", "6") == 0
        printed = capsys.readouterr().out
        for words in (
            "complete",
            "winner: trial",
            "by luck alone",
            "python -m harness run tiny.py --dataset digits --set lr=",
            "left",
        ):
            assert words in printed

    def statuses(self) -> dict[str, str]:
        client = MlflowClient(tracking.tracking_uri())
        made = client.get_experiment_by_name("tune/digits/study")
        assert made
        return {run.info.run_name: run.info.status for run in client.search_runs([made.experiment_id])}

    @pytest.mark.parametrize("setting", ["", '"start": "1",', '"width": numpy.int64(9),'])
    def test_confirming_command_trains_the_winner(
        self, workshop: Path, capsys: pytest.CaptureFixture[str], setting: str
    ) -> None:
        tiny = workshop / "tiny.py"
        tiny.write_text(tiny.read_text().replace("width: int = 7", 'width: int = 7, start: str = "0"'))
        text = STUDY.replace("\n\n", "\nimport numpy\n", 1)
        (workshop / "study.py").write_text(text.replace("\n    }", f"\n        {setting}\n    }}"))
        assert run("--trials", "6") == 0
        (line,) = (line for line in capsys.readouterr().out.splitlines() if "harness run" in line)
        arguments = [*line.split()[3:-1], "1"]
        assert cli.main([*arguments, "--epochs", "1"]) == 0
        record = next(iter(tuning.records()))
        best = tuning.winner(record.trials)
        (journal,) = (workshop / "mlruns" / "journal").iterdir()
        job = json.loads((journal / "events.jsonl").read_text().splitlines()[0])["job"]
        assert best
        assert {**job["knobs"], **job["recipe"]}.items() >= best.settings.items()

    def test_suggested_names_may_differ_from_settings(self, workshop: Path) -> None:
        rate = 'trial.suggest_float("lr", 1e-3, 1.0, log=True)'
        text = STUDY.replace(rate, '10 ** trial.suggest_float("log_lr", -3, 0)')
        (workshop / "study.py").write_text(text.replace('"width", 2', '"side", 2'))
        assert run("--trials", "12") == 0
        assert self.statuses()["study seed 0"] == "FINISHED"

    def test_copied_trials_are_no_candidates(self, workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (workshop / "study.py").write_text(TWO_CHOICES)
        assert run("--trials", "9") == 0
        assert "The best of 2 equally good networks" in capsys.readouterr().out

    def test_mlflow_shows_study_and_trial_curves(self, drawn: None, workshop: Path) -> None:
        assert run("--trials", "6") == 0
        client = MlflowClient(tracking.tracking_uri())
        made = client.get_experiment_by_name("tune/digits/study")
        assert made
        shown = {run.info.run_name: run for run in client.search_runs([made.experiment_id])}
        record = next(iter(tuning.records()))
        assert set(shown) == {"study seed 0", *(f"trial {trial.number}" for trial in record.trials)}
        assert "RUNNING" not in {run.info.status for run in shown.values()}
        for trial in record.trials:
            child = shown[f"trial {trial.number}"]
            assert child.data.tags["verdict"] == trial.state
            if trial.epochs:
                assert child.data.metrics["validation/accuracy"] == trial.value
                assert "validation/loss" in child.data.metrics
                assert not any(name.startswith("test/") for name in child.data.metrics)
        parent = shown["study seed 0"]
        best = tuning.winner(record.trials)
        assert best
        assert parent.data.metrics["best/validation_accuracy"] == best.value
        figures = {file.path for file in client.list_artifacts(parent.info.run_id)}
        assert {"history.png", "epochs.png", "slices.png", "trials.json"} <= figures

    def test_lost_store_is_rebuilt_for_extended_study(self, workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert run("--trials", "3") == 0
        assert run("--trials", "5") == 0
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workshop / 'another.db'}")
        for _ in range(2):
            assert cli.main(["sync"]) == 0
        client = MlflowClient(tracking.tracking_uri())
        made = client.get_experiment_by_name("tune/digits/study")
        assert made
        names = sorted(run.info.run_name for run in client.search_runs([made.experiment_id]))
        assert names == ["study seed 0", *(f"trial {number}" for number in range(5))]

    def test_confirm_compares_winner_with_default(self, workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("--trials", "5", "--confirm", "2") == 0
        printed = capsys.readouterr().out
        assert "on new images, p " in printed
        record = next(iter(tuning.records()))
        best = tuning.winner(record.trials)
        assert best
        winner, default = f"winner: {settings_text(best.settings)} ─", "default recipe ─"
        assert 0 < printed.index(winner) < printed.index(default)
        assert record.confirmation["n"] == 2
        found = leaderboard.rank(all_journals(), "digits")
        by_mean = sorted(found.rows, key=lambda row: row.mean != pytest.approx(record.confirmation["winner"]))
        (pair,) = leaderboard.compare_all([(by_mean[0], by_mean[1])])
        assert record.confirmation["p"] == pytest.approx(pair.comparison.p)
        assert record.confirmation["difference"] == pytest.approx(
            record.confirmation["winner"] - record.confirmation["default"]
        )
        assert len(list((workshop / "mlruns" / "journal").iterdir())) == 4
        assert run("--trials", "5", "--confirm", "2") == 0
        assert next(iter(tuning.records())).confirmation == record.confirmation
        assert run("--trials", "5", "--confirm", "3") == 0
        again = next(iter(tuning.records())).confirmation
        (pair,) = leaderboard.compare_all([leaderboard.rank(all_journals(), "digits").rows[:2]])  # type: ignore[list-item]
        assert again["looks"] == 2
        assert again["p"] == pytest.approx(min(2 * (pair.comparison.p or 0), 1))
        assert "confirmed once before" in capsys.readouterr().out

    def test_repeated_command_resumes_study(self, workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("--trials", "3") == 0
        capsys.readouterr()
        assert run("--trials", "4") == 0
        assert "resumes: " in capsys.readouterr().out

    def test_timeout_keeps_finished_trials(
        self,
        workshop: Path,
        direct: type[DirectWorkers],
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        class Slow(DirectWorkers):
            def submit(self, asked: Sequence[TrialRequest], medians: Mapping[int, float]) -> Future[list[Trial]]:
                return super().submit(asked, medians) if asked[0][0] < 2 else Future()

        monkeypatch.setattr(tune_command, "Processes", Slow)
        assert run("--trials", "4", "--timeout", "0.5") == 0
        assert "run the same command again to resume" in capsys.readouterr().out
        assert next(iter(tuning.records())).state == "stopped"
        assert self.statuses()["study seed 0"] == "KILLED"
        monkeypatch.setattr(tune_command, "Processes", direct)
        assert run("--trials", "4") == 0
        assert direct.trained == [0, 1, 2, 3]
        assert next(iter(tuning.records())).state == "finished"
        assert self.statuses()["study seed 0"] == "FINISHED"


@pytest.mark.soak
def test_killed_study_equals_undisturbed_study(workshop: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "harness",
        "tune",
        "study.py",
        "--dataset",
        "digits",
        "--trials",
        "24",
        "--jobs",
        "2",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    for delay in (7, 9, 11):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run(command, env=environment, stdout=subprocess.DEVNULL).returncode == 0
    killed = next(iter(tuning.records()))
    client = MlflowClient(tracking.tracking_uri())
    made = client.get_experiment_by_name("tune/digits/study")
    assert made
    shown = client.search_runs([made.experiment_id])
    assert len(shown) == 25
    assert "RUNNING" not in {run.info.status for run in shown}
    (workshop / "mlruns" / "studies").rename(workshop / "elsewhere")
    assert subprocess.run(command, env=environment, stdout=subprocess.DEVNULL).returncode == 0
    assert cached(next(iter(tuning.records()))) == cached(killed)


# --- the studies that come with the harness ---------------------------------------------------------------


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_study_suggests_valid_settings(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent.parent)
    made = search(str(file.relative_to(Path.cwd())), epochs=None)
    asked = tuning.Proposer(made, []).ask(20)
    assert not [trial.error.lines for trial in asked if trial.error]
    assert len({trial.key for trial in asked}) == 20


def test_every_reference_and_the_recipe_have_studies() -> None:
    assert {file.stem for file in STUDIES} >= FILES.keys() | {"recipe"}
