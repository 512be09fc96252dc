"""The public face: the same runs, counts and board as the commands give, as objects and frames."""

from __future__ import annotations

import pickle
import runpy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import harness
from harness import cli
from harness.errors import BudgetError, UsageError
from harness.journal import all_journals

EXAMPLE = Path(__file__).parent.parent / "docs" / "from_python.py"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> list[harness.Run]:
    """Train two seeds of a tiny network in a folder of their own."""
    from conftest import TINY

    folder = tmp_path_factory.mktemp("api")
    (folder / "mlruns").mkdir()
    (folder / "mlruns" / "mlflow.db").write_bytes(empty_store.read_bytes())
    (folder / "tiny.py").write_text(TINY)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.delenv("MLFLOW_TRACKING_URI", raising=False)
        return harness.run("tiny.py", seeds=2, dataset="digits", settings={"width": 5})


@pytest.fixture
def beside(trained: list[harness.Run], monkeypatch: pytest.MonkeyPatch) -> list[harness.Run]:
    monkeypatch.chdir(trained[0].path.parents[2])
    return trained


def test_run_returns_its_seeds_in_order(trained: list[harness.Run]) -> None:
    assert [(run.seed, run.name) for run in trained] == [(0, "tiny width=5 seed 0"), (1, "tiny width=5 seed 1")]
    assert all(0.1 < run.accuracy <= 1 for run in trained)


def test_curve_is_a_frame_by_epoch(trained: list[harness.Run]) -> None:
    curve = trained[0].curve
    assert isinstance(curve, pd.DataFrame)
    assert [*curve.index] == [1, 2]
    assert curve["test_accuracy"].iloc[-1] == trained[0].accuracy


def test_weights_are_those_of_the_record(trained: list[harness.Run]) -> None:
    stored = torch.load(trained[0].path / "weights.pt")
    assert stored.keys() == trained[0].weights.keys()
    assert all(torch.equal(stored[name], tensor) for name, tensor in trained[0].weights.items())


def test_finished_seeds_are_not_trained_again(beside: list[harness.Run]) -> None:
    again = harness.run("tiny.py", seeds=[1, 0], dataset="digits", settings={"width": 5})
    assert [run.path for run in again] == [beside[1].path, beside[0].path]
    assert len(all_journals()) == 2


def test_command_shows_runs_of_the_face(beside: list[harness.Run], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "tiny.py", "--dataset", "digits", "--set", "width=5", "--seeds", "2"]) == 0
    assert str(beside[1].path) in capsys.readouterr().out
    assert len(all_journals()) == 2


def test_board_has_the_columns_of_the_csv(beside: list[harness.Run], capsys: pytest.CaptureFixture[str]) -> None:
    board = harness.board("digits")
    assert cli.main(["leaderboard", "--csv"]) == 0
    assert ",".join(board.columns) == capsys.readouterr().out.splitlines()[0]
    assert board["accuracy"].tolist() == [sum(run.accuracy for run in beside) / 2]


def test_check_counts_without_training(beside: list[harness.Run]) -> None:
    counted = harness.check("tiny.py", {"width": 5})
    assert counted.parameters == beside[0].parameters == 50 + 260
    assert counted.ledger.query("counted")["numbers"].sum() == counted.parameters
    assert "Linear" in counted.layers["kind"].tolist()


@pytest.mark.usefixtures("beside")
def test_mistakes_raise_the_errors_of_the_commands() -> None:
    with pytest.raises(BudgetError):
        harness.check("tiny.py", {"width": 56})
    with pytest.raises(UsageError, match="widht") as caught:
        harness.run("tiny.py", settings={"widht": 5}, dataset="digits")
    assert caught.value.hint == "Did you mean 'width'?"
    assert caught.value.hint in caught.value.__notes__
    assert isinstance(caught.value, harness.errors.HarnessError)
    with pytest.raises(UsageError, match="'tpu' is not a device"):
        harness.run("tiny.py", dataset="digits", device="tpu")


@pytest.mark.parametrize("seeds", [0, [], -1, [-1], [1.5], 2**70, [2**33], "3", ["3"], range(1_001), None])
def test_seeds_that_cannot_be_recorded_are_refused(workplace: Path, seeds: Any) -> None:
    with pytest.raises(UsageError, match="cannot be trained"):
        harness.run("tiny.py", seeds=seeds, dataset="digits")
    assert not all_journals()


@pytest.mark.parametrize("seeds", [np.int64(2), np.arange(2), {0, 1}, [0, 1, 0], iter([0, 1])])
def test_whole_numbers_of_any_kind_are_seeds(beside: list[harness.Run], seeds: Any) -> None:
    assert harness.run("tiny.py", seeds=seeds, dataset="digits", settings={"width": 5}) == beside
    assert len(all_journals()) == 2


def test_runs_are_equal_by_their_record(beside: list[harness.Run]) -> None:
    copies = pickle.loads(pickle.dumps(beside))
    assert set(copies) == set(beside)
    assert len(repr(beside)) < 1_000


def test_threads_wait_for_each_other(workplace: Path) -> None:
    streams = sys.stdout, sys.stderr
    with ThreadPoolExecutor(2) as threads:
        found = [*threads.map(lambda seed: harness.run("tiny.py", seeds=[seed], dataset="digits")[0].seed, (3, 4))]
    assert found == [3, 4]
    assert (sys.stdout, sys.stderr) == streams


def test_import_alone_loads_nothing_heavy() -> None:
    code = "import sys, harness; print({'torch', 'mlflow', 'pandas'} & sys.modules.keys() or 'none')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "none\n"


def test_example_runs_whole(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLE))
    printed = capsys.readouterr().out
    assert "small width=4 seed 2" in printed
    assert len(all_journals()) == 6
