"""The adversary's own set: each trick in `tests/tricks` is refused, or runs and brings nothing."""

from __future__ import annotations

import ast
import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from expected_tricks import TRICKS

TESTS = Path(__file__).parent
FOLDER = TESTS / "tricks"
LARGEST = 20_000
"""Bytes of the largest file."""

LEAST = {"isolation": 28, "counting": 22, "home": 14}

SECONDS = 60
"""The guard ends a file that takes longer, which counts as refused."""

NEEDS_CONFINEMENT = {
    "allocates_without_end",
    "eats_memory_when_trained",
    "fills_the_disk",
    "labels_from_memory",
    "leaves_its_namespace",
    "opens_every_descriptor",
    "reads_its_parents_memory",
    "reads_secrets",
    "traces_its_parent",
    "trains_on_images_it_finds",
    "writes_into_pycache",
    "writes_into_site_packages",
}
"""Files that this test does not run: the guard has limits and a process group, but no walls."""

OPEN = {
    "black_opens_the_batch",
    "brings_weights_when_scored",
    "class_means_as_state",
    "counter_as_a_clock",
    "home_as_bytes",
    "home_as_four_bits",
    "home_as_literals",
    "home_as_literals_in_forward",
    "home_as_one_long_integer",
    "home_by_chaos",
    "home_by_chosen_seeds",
    "home_by_fill",
    "home_by_global_seeds",
    "home_by_narrow_draws",
    "home_by_normal_draws",
    "home_by_ranks_of_noise",
    "home_by_runs_of_ones",
    "home_by_seeds_of_numpy",
    "home_by_seeds_of_python",
    "home_by_slices_in_forward",
    "home_in_a_buffer",
    "home_in_a_frozen_parameter",
    "home_in_a_knob",
    "home_in_a_transient_buffer",
    "home_in_its_comments",
    "home_in_its_docstring",
    "home_in_whole_numbers",
    "home_minus_its_noise",
    "home_rescaled",
    "home_shuffled",
    "home_under_noise",
    "ink_opens_the_batch",
    "learns_twice_a_step",
    "lifts_the_budget",
    "mailbox_for_labels",
    "mailbox_without_writing",
    "many_kinds_open_the_batch",
    "near_neighbours_in_the_batch",
    "numbers_in_paddings",
    "picks_the_best_of_many_draws",
    "reads_memory_it_asked_for",
    "running_covariance",
    "sizes_of_what_comes_from_images",
    "slices_of_what_comes_from_images",
    "spectral_norm_of_images",
    "statistics_in_double",
    "table_named_ghost_norm",
    "table_of_images",
    "trains_on_digits_it_draws",
    "white_opens_the_batch",
    "writes_images_on_a_weight",
    "writes_on_real_images_only",
}
"""Files that pass today and must not: a hole that is closed leaves this set."""


def names() -> set[str]:
    return {file.stem for file in FOLDER.glob("*.py")}


def test_every_trick_is_listed() -> None:
    assert names() == set(TRICKS)


def test_every_group_has_its_tricks() -> None:
    found = Counter(expected.group for expected in TRICKS.values())
    assert all(found[group] >= least for group, least in LEAST.items()), found


def test_open_tricks_are_refused_ones() -> None:
    assert {name for name in OPEN if TRICKS[name].outcome == "refused"} == OPEN
    assert set(TRICKS) >= NEEDS_CONFINEMENT


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
def walls() -> tuple[str, ...]:
    """Return the command that gives a process namespaces of its own, where the system lets a user have them."""
    wanted = ("unshare", "-Ur", "-n", "-p", "--fork", "--kill-child")
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run([*wanted, "true"], check=True, capture_output=True, timeout=10)
        return wanted
    return ()


def guarded(name: str, folder: Path) -> dict[str, Any] | None:
    """Return what the guard reports of a file, or None if it was killed or took too long."""
    inner = [sys.executable, str(TESTS / "guarded.py"), str(FOLDER / f"{name}.py"), str(folder)]
    environment = {
        "PATH": os.defpath,
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}",
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache"),
    }
    running = subprocess.Popen(
        [*walls(), shutil.which("sh") or "sh", "-c", '"$@"; exit $?', "sh", *inner],  # whose parent is not pytest
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    with contextlib.suppress(subprocess.TimeoutExpired):
        running.wait(SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    result = folder / "result.json"
    report: dict[str, Any] | None = json.loads(result.read_text()) if result.exists() else None
    return report


def cases() -> list[Any]:
    waiting = pytest.mark.xfail(strict=True, reason="open: this trick passes today")
    return [
        pytest.param(name, marks=[waiting] if name in OPEN else [])
        for name, expected in sorted(TRICKS.items())
        if name not in NEEDS_CONFINEMENT and expected.outcome == "refused"
    ]


@pytest.mark.thorough
@pytest.mark.parametrize("name", cases())
def test_trick_is_refused(name: str, tmp_path: Path) -> None:
    report = guarded(name, tmp_path)
    if report is not None:
        assert report["rule"], f"{name} passes with {report['parameters']} numbers"
        assert TRICKS[name].rule in (None, report["rule"]), report
