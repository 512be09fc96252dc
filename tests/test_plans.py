"""A comparison is planned before it is trained: with unseen seeds, and a p-value adjusted for what was seen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import TINY
from fake_runs import finished, source_of

from harness import cli, data, leaderboard, plugins, runs
from harness.errors import DataError
from harness.journal import all_journals
from harness.leaderboard import plans
from harness.spec import Job
from harness.statistics import compare

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def job(name: str) -> Job:
    """Return a job of the made-up network of this name, on images that are not needed to plan."""
    recorded = finished(name, seed=1_000)
    record = recorded.read()
    assert record
    (recorded.folder / "events.jsonl").unlink()
    architecture = plugins.execute(source_of(name), record.job.path)
    knobs, recipe = plugins.apply_settings(architecture, {})
    made = runs.jobs(architecture, knobs, recipe, data.load("digits"), range(1), "cpu")[0]
    # As made-up records, it has no network: a row is then that of its text.
    return replace(made, dataset="mnist", dataset_digest=record.job.dataset_digest, network="", submission="")


def written() -> Iterator[dict[str, object]]:
    for file in Path("mlruns/plans").glob("*.json"):
        yield json.loads(file.read_text())


class TestPlan:
    def test_plan_takes_untrained_seeds(self) -> None:
        finished("a", 4)
        finished("b", 11, end="interrupted")
        finished("c", 80)
        plan = plans.write_down(job("a"), job("b"), 5, all_journals())
        assert plan.seeds == range(5, 10)

    def test_untrained_pair_starts_at_first_seed(self) -> None:
        assert plans.write_down(job("a"), job("b"), 10, all_journals()).seeds == range(10)

    def test_pair_in_either_order_is_planned_once(self) -> None:
        first = plans.write_down(job("a"), job("b"), 5, all_journals())
        (before,) = written()
        finished("a", 3)
        assert plans.write_down(job("b"), job("a"), 5, all_journals()) == first
        assert [*written()] == [before]

    def test_second_plan_takes_other_seeds(self) -> None:
        a, b = job("a"), job("b")
        first = plans.write_down(a, b, 5, all_journals())
        second = plans.write_down(a, b, 6, all_journals())
        assert set(first.seeds).isdisjoint(second.seeds)
        assert plans.write_down(a, b, 5, all_journals()) == first  # what it has said stays
        assert (first.earlier, second.earlier) == (0, 1)
        assert (first.adjust(0.02), second.adjust(0.02), second.adjust(0.9)) == (0.02, 0.04, 1.0)

    def test_adjustment_counts_every_scored_network(self) -> None:
        for name in ("a", "b", "c"):
            finished(name, 0)
        finished("d", 0, end="interrupted")  # its test accuracy was shown after every epoch
        assert plans.write_down(job("a"), job("b"), 5, all_journals()).among == 6
        assert plans.write_down(job("a"), job("new"), 5, all_journals()).among == 4
        assert plans.write_down(job("newer"), job("new"), 5, all_journals()).among == 1

    def test_seeds_fill_the_first_large_gap(self) -> None:
        for seed in (1, 2, 6, 2**62):
            finished("a", seed)
        assert plans.write_down(job("a"), job("b"), 3, all_journals()).seeds == range(3, 6)
        assert plans.write_down(job("a"), job("b"), 4, all_journals()).seeds == range(7, 11)

    def test_concurrent_plans_take_different_seeds(self) -> None:
        a, b = job("a"), job("b")
        with ThreadPoolExecutor(8) as pool:
            made = [*pool.map(lambda count: plans.write_down(a, b, count, []), range(3, 11))]
        seeds = [seed for plan in made for seed in plan.seeds]
        assert len(seeds) == len({*seeds})
        assert sorted(plan.earlier for plan in made) == [*range(8)]

    def test_later_scores_change_no_plan(self) -> None:
        a, b = job("a"), job("b")
        before = plans.write_down(a, b, 5, all_journals())
        for seed in before.seeds:
            finished("a", seed)
            finished("b", seed)
        assert plans.write_down(a, b, 5, all_journals()) == before

    @pytest.mark.parametrize(
        "change",
        [
            *("", "{}", "[1]", '{"first": 1}', "\x00", "[" * 100_000),
            *({"among": 0}, {"count": 0}, {"count": 4}, {"first": -1}, {"first": 2**70}, {"written": 10**20}),
            *({"networks": "abc"}, {"networks": [1, 2]}, {"earlier": True}, {"id": "0123"}),
        ],
    )
    def test_damaged_plan_is_named_and_kept(self, change: str | dict[str, object]) -> None:
        a, b = job("a"), job("b")
        plans.write_down(a, b, 5, all_journals())
        (file,) = Path("mlruns/plans").glob("*.json")
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}) if isinstance(change, dict) else change)
        with pytest.raises(DataError, match="is damaged") as raised:
            plans.write_down(a, b, 5, all_journals())
        assert str(file.absolute()) in raised.value.message


class TestCommand:
    @pytest.fixture(autouse=True)
    def two_files(self, empty_folder: Path, empty_store: Path) -> None:
        Path("mlruns").mkdir()
        shutil.copy(empty_store, "mlruns/mlflow.db")
        Path("a.py").write_text(TINY)
        Path("b.py").write_text(TINY.replace("dropout: float = 0.1", "dropout: float = 0.3"))

    def compare(self, *arguments: str) -> int:
        return cli.main(["compare", *arguments, "--dataset", "digits", "--seeds", "3"])

    def test_comparison_matches_the_board(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.compare("a.py", "b.py") == 0
        printed = capsys.readouterr().out
        found = leaderboard.rank(all_journals(), "digits")
        first, second = (found.find(name) for name in ("a", "b"))
        p = compare(first.correct, second.correct).p
        assert p is not None
        assert f"n = 3 seeds each: difference {100 * (first.mean - second.mean):+.3f} points" in printed
        assert f"on new images, p {p:.3f}" in printed
        (plan,) = written()
        times = [journal.read().started["time"] for journal in all_journals()]  # type: ignore[union-attr]
        assert all(int(str(plan["written"])) <= time for time in times)

    def test_repeated_compare_trains_nothing(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.compare("a.py", "b.py") == 0
        once = capsys.readouterr().out.splitlines()[-1]
        count = len(all_journals())
        assert self.compare("a", "b.py") == 0  # by its name on the board
        assert capsys.readouterr().out.splitlines()[-1] == once
        assert len(all_journals()) == count

    def test_network_is_not_compared_with_itself(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.compare("a.py", "a.py") == 2
        assert "same network" in capsys.readouterr().err

    def test_row_is_compared_as_it_was_trained(self) -> None:
        assert cli.main(["run", "a.py", "--dataset", "digits"]) == 0
        Path("a.py").write_text("no longer a network")
        assert self.compare("a", "b.py") == 0

    @pytest.mark.parametrize("count", ["2", "1001"])
    def test_seeds_out_of_range_are_refused(self, count: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["compare", "a.py", "b.py", "--seeds", count]) == 2
        assert "--seeds" in capsys.readouterr().err
