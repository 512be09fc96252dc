"""What a person reads says what the record holds."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from harness.backprop import Problem, sweep, sweep_markdown, sweep_state
from harness.journal import Record
from harness.journal.record import Event
from harness.sentences import spread_line
from harness.spec import Job, Recipe
from harness.statistics import summarise
from harness.tracking import confirmation_line
from harness.tracking.notes import markdown, verdict_line

FINISHED = {
    "event": "finished",
    "accuracy": 0.9941,
    "class_accuracy": [0.99] * 9 + [0.9512],
    "best_accuracy": 0.9953,
    "best_epoch": 2,
    "loss": 0.02,
    "epochs_to_target": 2,
    "seconds": 1.0,
    "time": 0,
}
EPOCH = {
    "number": 1,
    "train_loss": 0.5,
    "held_out_loss": 0.4,
    "train_accuracy": 0.9,
    "held_out_accuracy": 0.95,
    "lr": 0.01,
    "seconds": 1.0,
    "images_per_second": 1.0,
}


def record(ended: Event | None, *, is_benchmark: bool = True, **knobs: Any) -> Record:
    """Return a run of a small network, started with `knobs`, that ended with `ended`."""
    defaults = {"width": 16, "dropout": 0.0}
    job = Job("net", "net.py", "", "0" * 64, {**defaults, **knobs}, defaults, Recipe(), "mnist", "0" * 64, 3, "cpu")
    started = {
        "time": 0,
        "job": asdict(job),
        "group": None,
        "parameters": 12_345,
        "is_benchmark": is_benchmark,
        "environment": {"device": "abacus"},
        "anatomy": {
            "layers": [{"name": "0", "kind": "Linear", "output": "(N, 10)", "parameters": 12_345}],
            "uses": {"batch norm": True, "dropout": False},
            "multiply_adds": 7_840,
            "receptive_field": 28,
            "ends_in_softmax": False,
        },
    }
    return Record("id", started, [EPOCH] if ended else [], ended)


def test_run_name_has_architecture_knobs_and_seed() -> None:
    assert record(None).start.name == "net seed 3"
    assert record(None, width=12).start.name == "net width=12 seed 3"


@pytest.mark.parametrize(
    ("ended", "is_benchmark", "line"),
    [
        (None, True, "running"),
        (FINISHED, True, "all 3 targets met"),
        (FINISHED, False, "all 2 targets met"),
        ({**FINISHED, "accuracy": 0.9939}, True, "missed: accuracy"),
        ({**FINISHED, "accuracy": 0.9939}, False, "all 2 targets met"),
        ({"event": "failed", "state": "diverged", "reason": "nan"}, True, "diverged"),
    ],
)
def test_verdict_fits_in_one_line(ended: Event | None, is_benchmark: bool, line: str) -> None:
    assert verdict_line(record(ended, is_benchmark=is_benchmark)) == line


def test_note_of_finished_run_has_every_section() -> None:
    text = markdown(record(FINISHED))
    for words in (
        "Score: 99.41 % after the last epoch",
        "Best epoch 2: 99.53 % (picked on the test set; never ranks)",
        "| accuracy | 99.41 % | at least 99.40 % | met |",
        "95.12",
        "| 1 | 0.5000 | 0.4000 | 90.00 | 95.00 | 0.01 |",
        "| 0 | Linear | (N, 10) | 12,345 |",
        "12,345 parameters, 7,840 multiply-adds an image",
        "batch norm: yes, dropout: no",
    ):
        assert words in text


def test_note_of_failed_run_gives_the_reason() -> None:
    text = markdown(record({"event": "failed", "state": "diverged", "reason": "the loss was nan"}))
    assert "diverged: the loss was nan" in text
    assert "Score" not in text


def test_one_seed_has_no_spread() -> None:
    assert spread_line(summarise([0.994])) == "mean test accuracy after the last epoch 99.400 %, n = 1"
    assert "95 % interval of the mean on this test set 81.29 to 100.00 %" in spread_line(summarise([0.93, 0.95]))
    assert "all scores equal: no interval can be computed" in spread_line(summarise([0.994, 0.994]))


CONFIRMED = {"n": 5.0, "winner": 0.995, "default": 0.994, "difference": 0.001, "low95": -0.0001, "high95": 0.0021}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"p": 0.0}, "on new images, p below 0.001: better"),
        ({"p": 0.07}, "on new images, p 0.070: cannot tell yet"),
        ({"p": 0.0, "n": 2.0}, "cannot tell yet; a verdict takes 3 seeds each"),
        ({"p": 0.0, "difference": -0.001}, "worse"),
        ({"p": 0.04, "looks": 2.0}, "better (confirmed once before, with other numbers of seeds: p times 2)"),
        ({}, "on this test set, by the spread of the seeds' differences alone"),  # as studies kept it before
    ],
)
def test_confirmation_has_the_verdict_of_the_board(more: dict[str, float], said: str) -> None:
    assert confirmation_line({**CONFIRMED, **more}).endswith(said)


def test_sweep_note_names_every_rate_and_state() -> None:
    problem = Problem(targets=(0.5, 0.5))
    text = sweep_markdown(problem, sweep(problem, (1.0, 128.0), 100))
    assert "Fastest stable rate (lowest loss at the last step): **1**" in text
    assert "unstable: the loss rises at step 1" in text
    for derivative in range(1, 9):
        assert f"dE/dw{derivative} =" in text


def test_saturated_rate_is_reported() -> None:
    (trajectory,) = sweep(Problem(), (1e6,), 100)
    assert "saturated: outputs 0" in sweep_state(trajectory)
    assert "learning has all but stopped" in sweep_state(trajectory)
