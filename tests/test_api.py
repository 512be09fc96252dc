"""The public face: the same runs, counts and board as the commands give, as objects and frames."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

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
    with pytest.raises(UsageError, match="cannot be trained"):
        harness.run("tiny.py", seeds=0, dataset="digits")


def test_import_alone_loads_nothing_heavy() -> None:
    code = "import sys, harness; print({'torch', 'mlflow', 'pandas'} & sys.modules.keys() or 'none')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "none\n"


def test_example_runs_whole(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLE))
    printed = capsys.readouterr().out
    assert "small width=4 seed 2" in printed
    assert len(all_journals()) == 6
