"""A row is trained again from its stored graphs, and its board says so; a claim that is too good is contradicted."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY
from fake_runs import edit, remarks_of

from harness import cli, runs
from harness.cli import progress
from harness.journal import Journal, all_journals, archive, verify_run
from harness.journal.verifications import Verification, damaged, keep, read_all, receive, verifications_folder
from harness.leaderboard import rank
from harness.runs.existing import environment_here
from harness.spec import Job
from harness.statistics import agreement


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the journals of three runs of tiny.py."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("harness.tracking.tracker.Tracker.enqueue", lambda *_: None)
        Path("tiny.py").write_text(TINY)
        assert cli.main(["run", "tiny.py", "--dataset", "digits", "--seeds", "3", "--device", "cpu"]) == 0
    return folder


@pytest.fixture
def journals(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Journal]:
    """Stand in a folder with copies of these runs."""
    shutil.copytree(trained / "mlruns" / "journal", tmp_path / "here" / "mlruns" / "journal")
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return all_journals()


def verify(*arguments: str) -> int:
    return cli.main(["verify", *arguments, "--device", "cpu"])


def on_another_machine(journals: list[Journal]) -> None:
    for journal in journals:
        record = journal.read()
        assert record
        edit(journal, "started", environment={**record.started["environment"], "device": "another processor"})


class TestVerify:
    def test_same_machine_repeats_the_bits_of_a_seed(
        self, journals: list[Journal], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert verify("tiny", "--author", "Bo") == 0
        assert "verified bit for bit" in capsys.readouterr().out
        (found,) = read_all()
        assert (found.verdict, found.seeds, found.author, found.p) == ("bit for bit", (0,), "Bo", None)
        assert f"verified bit for bit by Bo ({found.date}, 1 seed)" in remarks_of(rank(all_journals()))[0]

    def test_its_trainings_are_no_runs(self, journals: list[Journal]) -> None:
        before = rank(all_journals()).rows[0].seeds
        assert verify("tiny", "--seeds", "2") == 0
        assert all_journals() == journals
        assert rank(all_journals()).rows[0].seeds == before

    def test_single_run_is_verified_by_its_id(self, journals: list[Journal]) -> None:
        assert verify(str(journals[1].folder)) == 0
        (found,) = read_all()
        assert [seed for seed, _ in found.claimed] == [verify_run(journals[1]).job.seed]

    def test_another_machine_trains_other_seeds(
        self, journals: list[Journal], capsys: pytest.CaptureFixture[str]
    ) -> None:
        on_another_machine(journals)
        assert verify("tiny") == 0
        printed = capsys.readouterr().out
        assert "proves no training" in " ".join(printed.split())
        (found,) = read_all()
        assert (found.verdict, found.seeds) == ("agrees", (3, 4, 5))
        assert found.p is not None

    def test_claim_that_is_too_good_is_contradicted(
        self, journals: list[Journal], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        on_another_machine(journals)
        monkeypatch.setattr("harness.journal.run.Run.correct", property(lambda run: np.arange(360) > run.seed))
        assert verify("tiny") == 5
        assert read_all()[0].verdict == "contradicted"
        assert "contradicted (" in remarks_of(rank(all_journals()))[0]

    def test_other_bits_of_one_run_are_undecided(self, journals: list[Journal]) -> None:
        record = journals[0].read()
        assert record
        text = journals[0].events_file.read_text()
        journals[0].events_file.write_text(text.replace(repr(record.epochs[0]["train_loss"]), "1.25"))
        assert verify(journals[0].run_id) == 0
        assert read_all()[0].verdict == "undecided"

    def test_run_without_graph_cannot_be_verified(
        self, journals: list[Journal], capsys: pytest.CaptureFixture[str]
    ) -> None:
        record = journals[0].read()
        assert record
        edit(journals[0], "started", job={**record.started["job"], "network": ""})
        (journals[0].folder / "network.json").unlink()
        assert verify(journals[0].run_id) == 2
        assert "no graph is stored" in capsys.readouterr().err

    def test_dataset_and_fewer_seeds_than_asked_are_said(
        self, journals: list[Journal], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert verify(journals[0].run_id, "--seeds", "2") == 0
        printed = capsys.readouterr().out
        assert "tiny on digits" in printed
        assert "not 2: no more claimed seeds are of a machine like this" in printed

    def test_interrupted_one_goes_on_with_the_next_seed(
        self, journals: list[Journal], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        follow = progress.follow

        def stopped(job: Job, events: Any, introduces: bool) -> Any:
            if job.seed == 1:
                raise KeyboardInterrupt
            return follow(job, events, introduces)

        monkeypatch.setattr(progress, "follow", stopped)
        assert verify("tiny", "--seeds", "3") == 130
        assert read_all() == damaged() == []
        (kept,) = (verifications_folder() / "unfinished").iterdir()
        monkeypatch.setattr(progress, "follow", follow)
        capsys.readouterr()
        assert verify("tiny", "--seeds", "3") == 0
        printed = capsys.readouterr().out
        assert "seed 0 was trained before the interruption" in printed
        assert "seed 0 on digits" not in printed
        assert [(found.verdict, found.seeds) for found in read_all()] == [("bit for bit", (0, 1, 2))]
        assert not [*kept.parent.iterdir()]

    def test_kept_training_of_other_versions_or_damaged_is_not_used(
        self, journals: list[Journal], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (job,) = runs.plan_verification(rank(journals).rows[0].runs, 1, "cpu").jobs
        training = runs.Training(job.seed, [0.1, 0.3], [1, 4], 360, 358 / 360, "cpu")
        runs.keep_training(job, training)
        assert runs.kept_training(job) == training
        assert runs.kept_training(replace(job, seed=9)) is None
        here = environment_here("cpu")
        with monkeypatch.context() as patch:
            patch.setattr("harness.runs.verify.environment_here", lambda _: replace(here, torch="1.0"))
            assert runs.kept_training(job) is None
        (file,) = (verifications_folder() / "unfinished").iterdir()
        file.write_text("{}")
        assert runs.kept_training(job) is None

    def test_unknown_run_and_one_that_does_not_count_are_named(
        self, journals: list[Journal], capsys: pytest.CaptureFixture[str]
    ) -> None:
        run_id = journals[0].run_id
        assert verify(f"mlruns/journal/{run_id}x") == 2
        assert f"Did you mean '{run_id}'?" in capsys.readouterr().err
        journals[0].append("failed", state="withdrawn", reason="a slip")
        assert verify(run_id) == 5
        assert f"{run_id} cannot be verified, as it does not count: withdrawn: a slip." in capsys.readouterr().err

    @pytest.mark.parametrize("arguments", [["nothing"], ["tiny", "--seeds", "0"]])
    def test_mistake_is_named(self, journals: list[Journal], arguments: list[str]) -> None:
        assert verify(*arguments) == 2
        assert not read_all()


def made_up(journals: list[Journal], **changes: Any) -> Verification:
    row = rank(journals).rows[0]
    claimed = tuple((run.seed, run.digest) for run in row.runs)
    facts: dict[str, Any] = {
        "row": row.key, "title": "tiny", "dataset": "digits", "author": "Bo", "time": 1_790_000_000_000,
        "claimed": claimed, "seeds": (3, 4, 5), "scores": (0.9, 0.9, 0.9), "verdict": "agrees", "p": 0.4,
        "device": "cpu", "torch": "2", "harness": "0",
    }  # fmt: skip
    return Verification(**facts | changes)


class TestRecord:
    def test_travels_with_its_row_and_names_its_file(
        self, journals: list[Journal], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keep(made_up(journals))
        assert cli.main(["leaderboard", "--export", "runs.zip"]) == 0
        place = Path("runs.zip").absolute()
        monkeypatch.chdir("../there")
        assert not any(run.refused for run in archive.import_runs(place))
        assert (
            "runs.zip claims: verified by scores by Bo (2026-09-21, 3 seeds, p = 0.400)"
            in remarks_of(rank(all_journals()))[0]
        )
        archive.import_runs(place)
        assert len(read_all()) == 1

    def test_equal_ones_are_one_remark_with_all_their_seeds(self, journals: list[Journal]) -> None:
        for time, seed in ((1, 0), (2, 0), (3, 1)):
            keep(made_up(journals, seeds=(seed,), scores=(0.9,), verdict="bit for bit", p=None, time=time))
        keep(made_up(journals, seeds=(0,), scores=(0.9,), verdict="bit for bit", p=None, author="Cy", time=4))
        said = remarks_of(rank(journals))[0]
        assert said.count("verified bit for bit") == 2
        assert "by Bo (1970-01-01, 2 seeds); verified bit for bit by Cy (1970-01-01, 1 seed)" in said

    def test_one_of_other_results_is_not_shown(self, journals: list[Journal]) -> None:
        keep(made_up(journals, claimed=((0, "0" * 64),)))
        keep(made_up(journals, row="0" * 64))
        assert rank(journals).rows[0].verifications == ()

    def test_contradicted_leader_is_not_verified(self, journals: list[Journal]) -> None:
        assert "not verified, though the first of those up to 1,000" in remarks_of(rank(journals))[0]
        keep(made_up(journals, verdict="contradicted"))
        assert "not verified" in remarks_of(rank(journals))[0]
        keep(made_up(journals))
        assert "not verified" not in remarks_of(rank(journals))[0]

    def test_claims_of_a_file_verify_no_leader(self, journals: list[Journal]) -> None:
        claim = made_up(journals, seeds=(0,), scores=(0.9,), verdict="bit for bit", p=None)
        receive([claim.stored], "/home/me/forged.zip")
        said = remarks_of(rank(journals))[0]
        assert "forged.zip claims: verified bit for bit by Bo (2026-09-21, 1 seed)" in said
        assert "not verified, though the first of those up to 1,000" in said

    @pytest.mark.parametrize(
        "change",
        [
            {"author": "a\x1b[2J"}, {"author": "a" * 81}, {"p": 2}, {"time": -1}, {"seeds": []}, {"verdict": "true"},
            {"claimed": [[0, "x"]]}, {"scores": [0.9]}, {"format": 9}, {"row": None}, {"p": float("nan")},
            {"seeds": [3, 3, 4]}, {"verdict": "bit for bit"}, {"seeds": [*range(1_001)], "scores": [0.9] * 1_001},
        ],
    )  # fmt: skip
    def test_damaged_one_does_not_count(self, journals: list[Journal], change: dict[str, Any]) -> None:
        receive([{**made_up(journals).stored, **change}, None, 7], "runs.zip")
        assert read_all() == []
        verifications_folder().mkdir()
        (verifications_folder() / "x.json").write_text(json.dumps({**made_up(journals).stored, **change}))
        assert read_all() == []


class TestAgreement:
    def test_honest_samples_are_contradicted_once_in_a_hundred(self) -> None:
        rng = np.random.default_rng(0)
        low = 0
        for _ in range(1_000):
            rates = 0.99 + 0.002 * rng.standard_normal(6)
            right = rng.random((6, 1_000)) < rates[:, None]
            found = agreement(right[:3], right[3:])
            assert found
            low += found.p < 0.01
        assert low <= 20

    def test_equal_predictions_agree_and_two_seeds_tell_nothing(self) -> None:
        right = np.ones((2, 10), dtype=bool)
        assert agreement(right, right) is not None
        assert agreement(right, right).p == 1.0  # type: ignore[union-attr]
        assert agreement(right[:1], right[:1]) is None

    def test_single_claim_can_be_contradicted(self) -> None:
        rng = np.random.default_rng(0)
        found = agreement(np.ones((1, 10_000), dtype=bool), rng.random((3, 10_000)) < 0.9)
        assert found
        assert found.p < 0.01
        assert found.detectable < -found.difference
