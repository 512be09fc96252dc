"""The adversary's own set: each trick in `tests/tricks` is refused, or runs and brings nothing.

The files run in confined processes, as any plug-in does; what they hand over is rebuilt and audited in this one.
"""

from __future__ import annotations

import ast
import functools
import site
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from expected_tricks import TRICKS, TWIN

from harness import data, plugins, runs, submission
from harness.audit import enforce
from harness.errors import AuditError, HarnessError
from harness.spec import BUDGET

TESTS = Path(__file__).parent
FOLDER = TESTS / "tricks"
LARGEST = 20_000
"""Bytes of the largest file."""

LEAST = {"isolation": 28, "counting": 22, "home": 14}

ENDLESS = {"loops_without_end", "sleeps_without_end"}

SECONDS = 30.0
"""Seconds that these may take here; more than any other file needs on a machine that is busy."""

SLOW = ENDLESS | {
    "allocates_without_end",
    "another_network_by_its_name",
    "another_network_by_the_arguments",
    "another_network_by_the_clock",
    "another_network_by_the_machine",
    "another_network_by_the_process",
    "hands_over_half_a_gigabyte",
    "lifts_the_budget",
    "patches_the_recorder",
    "sends_a_document_slowly",
    "silences_the_audit",
    "start_that_piles_up",
}
"""The files of isolation that take seconds; the others take a third of one, as their network is the twin's."""

QUICK = {
    "brings_weights_when_scored",
    "class_means_as_state",
    "expanded_weight",
    "grows_by_its_storage",
    "home_as_literals",
    "home_as_literals_in_forward",
    "home_by_chosen_seeds",
    "home_by_ranks_of_noise",
    "home_by_references",
    "home_by_sums_of_sizes",
    "home_in_a_buffer",
    "home_in_whole_numbers",
    "ink_opens_the_batch",
    "learns_twice_a_step",
    "mailbox_without_writing",
    "reads_uninitialised_memory",
    "seven_views_of_one_storage",
    "statistics_in_double",
    "swaps_weights_by_mode",
    "takes_the_images_storage",
    "tie_that_opens",
    "writes_on_real_images_only",
}
"""One or more of the other files of each kind, each a second. All others take minutes:
python -m pytest -m soak."""


def names() -> set[str]:
    return {file.stem for file in FOLDER.glob("*.py")}


def test_every_trick_is_listed() -> None:
    assert names() == set(TRICKS)


def test_every_group_has_its_tricks() -> None:
    found = Counter(expected.group for expected in TRICKS.values())
    assert all(found[group] >= least for group, least in LEAST.items()), found


def test_quick_tricks_are_listed() -> None:
    assert set(TRICKS) >= QUICK | SLOW


@pytest.mark.parametrize("name", sorted(TRICKS))
def test_trick_is_a_small_plugin(name: str) -> None:
    text = (FOLDER / f"{name}.py").read_text()
    tree = ast.parse(text)
    assert len(text.encode()) <= LARGEST
    assert (ast.get_docstring(tree) or "").strip()
    assert any(isinstance(each, ast.FunctionDef) and each.name == "build" for each in tree.body)


def test_what_passes_says_what_is_shown() -> None:
    assert all(expected.shown for expected in TRICKS.values() if expected.outcome != "refused")


@functools.cache
def twin() -> str:
    """Return the hash of what the honest twin hands over."""
    return submitted("honest_twin").hash


def submitted(name: str) -> submission.Submission:
    architecture = plugins.load(FOLDER / f"{name}.py")
    return submission.submit(architecture.source, architecture.path, architecture.knobs)


def left_behind() -> set[str]:
    """Return what a trick has left where the harness, Python and the user look."""
    folders = {Path.cwd(), Path.home(), Path(tempfile.gettempdir()), TESTS, FOLDER, TESTS.parent, Path("/")}
    folders |= {Path(each) for each in (*site.getsitepackages(), site.getusersitepackages())}
    folders |= {folder / "__pycache__" for folder in folders}
    entries = [str(entry) for folder in folders if folder.is_dir() for entry in folder.iterdir()]
    return {entry for entry in entries if "harness-trick" in entry or "harness_trick" in entry}


@pytest.fixture
def unharmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a test fail if a trick left a file where the harness, Python or the user looks."""
    monkeypatch.chdir(tmp_path)
    before = left_behind()
    yield
    assert left_behind() == before
    assert [*tmp_path.iterdir()] == []


def cases() -> list[Any]:
    quick = QUICK | {name for name, expected in TRICKS.items() if expected.group == "isolation"} - SLOW
    return [pytest.param(name, marks=[] if name in quick else [pytest.mark.soak]) for name in sorted(TRICKS)]


@dataclass(frozen=True)
class Ending:
    """How a file ended: refused, or with the honest twin's network, or with another that counts so many numbers."""

    error: HarnessError | None = None
    is_twin: bool = False
    parameters: int | None = None


def ending(name: str) -> Ending:
    """Load, submit and audit a file, and compare it with the budget."""
    try:
        if TRICKS[name].group == "isolation" and name != "honest_twin" and submitted(name).hash == twin():
            return Ending(is_twin=True)
        architecture = plugins.load(FOLDER / f"{name}.py")
        ledger = runs.inspect(architecture, architecture.knobs).audit.ledger
        enforce(ledger, architecture.recipe, BUDGET)
    except HarnessError as error:
        return Ending(error)
    return Ending(parameters=ledger.parameters)


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("name", cases())
def test_trick_brings_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name in ENDLESS:
        monkeypatch.setattr("harness.plugins.handover.SECONDS", SECONDS)
    expected, found = TRICKS[name], ending(name)
    if found.error:
        assert expected.outcome != "harmless", found.error.lines
        assert expected.rule in (None, getattr(found.error, "rule", None)), found.error.lines
        assert all(line.isprintable() for line in found.error.lines)
    else:
        assert expected.outcome != "refused", found
        assert found.is_twin or expected.shown != TWIN, found
        assert found.is_twin or found.parameters == expected.parameters


@pytest.mark.thorough
def test_gate_that_training_opens_is_refused_after_it() -> None:
    architecture = plugins.load(FOLDER / "many_kinds_open_the_batch.py")
    knobs, recipe = plugins.apply_settings(architecture, {"epochs": 8, "lr": 0.05, "batch_size": 64})
    (job,) = runs.jobs(architecture, knobs, recipe, data.load("digits"), range(1), "cpu")
    with pytest.raises(AuditError, match="beside other images"):
        list(runs.train(job))
