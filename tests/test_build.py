"""One audit serves every seed of a file and its knobs, in this process and in others."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import TINY

from harness import audit, cli, data, plugins, runs, workers
from harness.audit import Audit, Exporter
from harness.errors import AuditError, ContractError
from harness.events import Trial
from harness.runs import audit_cache, build, expect_audit, leave_audit, leave_no_audit
from harness.runs.shared_audits import is_awaited, take_audit
from harness.seeds import seed_everything
from harness.spec import HeldOut, Job, Knob

pytestmark = pytest.mark.usefixtures("undrawn")


TABLE = '''"""A linear layer, and what is added to its answers: drawn for each seed, and never trained."""
import torch
from torch import nn

RECIPE = {"batch_size": 64, "epochs": 1}


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.added = torch.randn(10)
        self.head = nn.Linear(784, 10)

    def forward(self, images):
        return self.head(images.flatten(1)) + self.added


def build():
    return Network()
'''

SOME_SEEDS_DIVERGE = '''"""A linear layer whose weights are infinite in seeds that draw so."""
import torch
from torch import nn


def build():
    drawn = torch.rand(1)
    linear = nn.Linear(784, 10)
    with torch.no_grad():
        linear.weight /= (drawn < LIMIT).float()
    return nn.Sequential(nn.Flatten(), linear)
'''


DRAWN_FORM = '''"""A hidden layer whose form is drawn at random: {form}."""
import torch
from torch import nn
from torch.nn import functional as F


class Hidden(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.head = nn.Linear(784, 8), nn.Linear(8, 10)
        self.drawn = torch.rand(()).item()

    def forward(self, images):
        return self.head({form})


def build():
    return Hidden()
'''


def job(source: str = TINY, seed: int = 0, held_out: HeldOut = "test", **settings: Knob) -> Job:
    architecture = plugins.from_source(source, "tiny.py")
    knobs, recipe = plugins.apply_settings(architecture, settings)
    images = data.load("digits", held_out)
    return runs.jobs(architecture, knobs, recipe, images, range(seed, seed + 1), "cpu", held_out)[0]


def trial(source: str = TINY, seed: int = 0, **settings: Knob) -> Job:
    """Return the job of a trial: its process submits its file."""
    return job(source, seed, "validation", **settings)


@pytest.fixture
def audits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Forget what was audited before, and note the files that are audited from here on."""
    made: list[str] = []
    original = audit.audit

    def noted(network: torch.nn.Module, path: str, exporter: Exporter) -> Audit:
        made.append(path)
        return original(network, path, exporter)

    monkeypatch.setattr(audit, "audit", noted)
    monkeypatch.setattr(audit_cache, "_cache", OrderedDict())
    return made


# --- in this process --------------------------------------------------------------------------------------


def test_seeds_are_audited_once(workplace: Path, audits: list[str]) -> None:
    assert cli.main(["run", "tiny.py", "--dataset", "digits", "--epochs", "1", "--seeds", "5"]) == 0
    assert audits == ["tiny.py"]
    weights = [torch.load(file)["4.bias"] for file in Path("mlruns/journal").glob("*/weights.pt")]
    assert len({tuple(bias.tolist()) for bias in weights}) == 5


def test_knobs_need_new_audit_but_recipes_do_not(audits: list[str]) -> None:
    for one in (job(), job(lr=0.2, seed=1), job(dropout=0.2), job(dropout=0.2, seed=2)):
        build(one)
    assert len(audits) == 2


def test_copied_file_is_audited_under_its_name(audits: list[str]) -> None:
    written = TINY.replace("nn.Linear(width * width, 10),", "nn.Linear(width * width, 10), Half(),")
    written += """

class Half(nn.Module):
    def forward(self, answers):
        return answers * 0.4321
"""
    for path in ("tiny.py", "copy.py"):
        found = build(replace(job(written), path=path))
        assert any(entry.layer.startswith(path) for entry in found.audit.ledger.entries)
    assert audits == ["tiny.py", "copy.py"]


def test_table_is_drawn_for_each_seed(audits: list[str]) -> None:
    built = [build(job(TABLE, seed)) for seed in range(2)]
    assert len(audits) == 1
    graphs = [each.audit.graphs(each.network, torch.device("cpu")).train for each in built]
    assert not torch.equal(*(graph.added for graph in graphs))
    assert built[0].audit is built[1].audit


def test_table_of_random_size_is_refused(audits: list[str]) -> None:
    source = TABLE.replace("torch.randn(10)", "torch.randn(10 if torch.rand(()) < 0.5 else 1)")
    with pytest.raises(AuditError, match="computes differently"):
        [build(job(source, seed)) for seed in range(9)]


def test_reference_weights_do_not_depend_on_seed(audits: list[str]) -> None:
    built = [build(job(seed=seed)) for seed in range(2)]
    references = [each.audit.own_graphs(torch.device("cpu")).train.state_dict() for each in built]
    assert all(map(torch.equal, *(reference.values() for reference in references)))
    own = built[0].audit.graphs(built[0].network, torch.device("cpu")).train
    assert not torch.equal(own.state_dict()["4.weight"], references[0]["4.weight"])
    own(torch.rand(4, 1, 28, 28)).sum().backward()
    audit_cache._cache.clear()
    again = build(job()).audit.own_graphs(torch.device("cpu")).train.state_dict()
    assert all(map(torch.equal, again.values(), references[0].values()))


def test_weights_do_not_depend_on_audited_seed(audits: list[str]) -> None:
    after_another = [build(job(seed=seed)).network for seed in (0, 1)][1]
    audit_cache._cache.clear()
    alone = build(job(seed=1)).network
    assert all(map(torch.equal, after_another.state_dict().values(), alone.state_dict().values()))


def test_nonfinite_weight_of_later_seed_is_refused(audits: list[str]) -> None:
    drawn = {}
    for seed in range(50):
        seed_everything(seed, 0, "weights")
        drawn[seed] = float(torch.rand(1))
    largest = max(drawn, key=drawn.__getitem__)
    assert largest > 1
    source = SOME_SEEDS_DIVERGE.replace("LIMIT", str(drawn[largest]))
    build(job(source, 0))
    with pytest.raises(AuditError, match="not finite"):
        build(job(source, largest))


@pytest.mark.parametrize(
    "form",
    [
        "F.leaky_relu(self.hidden(images.flatten(1)), self.drawn)",
        "F.dropout(self.hidden(images.flatten(1)), self.drawn, self.training)",
        "(torch.relu if int(self.drawn * 1000) % 2 else F.silu)(self.hidden(images.flatten(1)))",
    ],
)
def test_random_structure_is_refused(audits: list[str], form: str) -> None:
    with pytest.raises(AuditError, match="computes differently"):
        [build(job(DRAWN_FORM.format(form=form), seed)) for seed in range(9)]


@pytest.mark.parametrize(
    "form",
    [
        "self.hidden(images.flatten(1)).clamp(-100 - self.drawn, 100 + self.drawn)",
        "F.batch_norm(self.hidden(images.flatten(1)), None, None, training=True, eps=1e-9 * self.drawn)"
        " if self.training else self.hidden(images.flatten(1))",
    ],
)
def test_random_number_without_visible_effect_is_refused(audits: list[str], form: str) -> None:
    with pytest.raises(AuditError, match="computes differently"):
        build(job(DRAWN_FORM.format(form=form)))


def test_unsaved_buffers_may_be_random(audits: list[str]) -> None:
    source = TABLE.replace("self.added = torch.randn(10)", "self.register_buffer('added', DRAWN, persistent=False)")
    source = source.replace("self.added\n", "self.added[:10]\n").replace("DRAWN", "torch.randn(1_002)")
    build(job(source))


def test_only_recently_used_audits_are_cached(audits: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_cache, "MOST_KEPT", 2)
    for dropout in (0.1, 0.2, 0.1, 0.3, 0.1, 0.2):
        build(job(dropout=dropout))
    assert len(audits) == 4  # 0.1, 0.2, 0.3, and 0.2 again


# --- from process to process ------------------------------------------------------------------------------


def test_shared_audit_is_not_repeated(tmp_path: Path, audits: list[str]) -> None:
    one = trial(seed=3)
    assert expect_audit(tmp_path, one)
    assert not expect_audit(tmp_path, replace(one, seed=4))  # the same file and knobs
    assert is_awaited(tmp_path, one)
    leave_audit(tmp_path, one)
    assert not is_awaited(tmp_path, one)
    audit_cache._cache.clear()
    take_audit(tmp_path, one)
    build(one)
    assert len(audits) == 1
    assert [*tmp_path.iterdir()] == []


def test_shared_refusal_is_raised_again(tmp_path: Path, audits: list[str]) -> None:
    eleven = trial(TINY.replace("width * width, 10", "width * width, 11"))
    expect_audit(tmp_path, eleven)
    leave_audit(tmp_path, eleven)
    with pytest.raises(ContractError, match="shape"):
        take_audit(tmp_path, eleven)


def test_trainer_audits_if_auditor_died(tmp_path: Path, audits: list[str]) -> None:
    one = trial()
    expect_audit(tmp_path, one)
    leave_no_audit(tmp_path, one)
    assert not is_awaited(tmp_path, one)
    take_audit(tmp_path, one)
    build(one)
    assert len(audits) == 1


def test_shared_audit_outlives_its_auditor(tmp_path: Path, audits: list[str]) -> None:
    one = trial()
    expect_audit(tmp_path, one)
    leave_audit(tmp_path, one)
    leave_no_audit(tmp_path, one)
    audit_cache._cache.clear()
    take_audit(tmp_path, one)
    assert len(audit_cache._cache) == 1


def test_trials_train_while_others_are_audited(tmp_path: Path, audits: list[str]) -> None:
    late, ready = trial(dropout=0.2, epochs=1), trial(epochs=1)
    expect_audit(tmp_path, late)
    finished: list[int] = []

    def tell(number: int, _: object) -> None:
        finished.append(number)
        if number == 1:  # the other one has trained meanwhile
            threading.Thread(target=leave_audit, args=(tmp_path, late)).start()

    trials = runs.train_trials([(0, {}, late), (1, {}, ready)], {}, tell, tmp_path)
    assert finished == [1, 0]
    assert [trial.state for trial in trials] == ["complete", "complete"]


def test_audit_marks_trial_over_budget_infeasible(tmp_path: Path, audits: list[str]) -> None:
    wide = trial(TINY.replace("width * width, 10)", "width * width, 60), nn.Linear(60, 10)"), width=28)
    expect_audit(tmp_path, wide)
    leave_audit(tmp_path, wide)
    (ended,) = runs.train_trials([(0, {}, wide)], {}, lambda *_: None, tmp_path)
    assert ended.state == "infeasible"
    assert ended.parameters is not None
    assert ended.parameters > 20_000


@pytest.mark.thorough
def test_auditor_processes_audit_gpu_trials() -> None:
    hired = workers.Processes(2, "cuda", 60.0, auditors=2)  # its jobs are for the CPU: there need be no GPU
    asked = [(number, {}, trial(dropout=0.1 * (number + 1), epochs=1)) for number in range(2)]
    with hired:
        trials: list[Trial] = hired.submit(asked, {}).result()
        assert [trial.state for trial in trials] == ["complete", "complete"]
        assert [*hired._audits.iterdir()] == []  # both were made there, and taken
