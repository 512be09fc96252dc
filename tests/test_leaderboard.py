"""The ranking: what counts, what does not and why, which row is better, and that luck does not win."""

from __future__ import annotations

import itertools
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from fake_runs import LABELS, answers_with, edit, finished, source_of, wrong_at_random
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import data, leaderboard
from harness.cli import options
from harness.errors import UsageError
from harness.events import StudyRecord, Trial
from harness.journal import Journal, all_journals
from harness.leaderboard import Board, rank
from harness.leaderboard.row import stretches
from harness.plugins import from_source
from harness.spec import BUDGET


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def board(dataset: str = "auto", studies: tuple[StudyRecord, ...] = ()) -> Board:
    return rank(all_journals(), dataset, studies)


def several(name: str, errors: list[int], **more: object) -> list[Journal]:
    return [finished(name, seed, count, **more) for seed, count in enumerate(errors)]  # type: ignore[arg-type]


class TestCountedRuns:
    def test_mean_of_last_epochs_ranks(self) -> None:
        several("good", [50, 52, 54])
        several("bad", [70, 72, 74])
        first, second = board().rows
        assert [(row.rank, row.name, row.n) for row in (first, second)] == [(1, "good", 3), (2, "bad", 3)]
        assert first.score.mean == pytest.approx(0.9948)
        assert first.gap == pytest.approx(0.0005)

    @pytest.mark.parametrize("end", ["failed", "diverged", "out of memory", "interrupted"])
    def test_unfinished_run_is_named_but_never_ranked(self, end: str) -> None:
        several("good", [50, 52, 54])
        lost = finished("good", 3, 1, end=end)
        found = board()
        assert [row.n for row in found.rows] == [3]
        assert [(entry.run_id, entry.reason) for entry in found.left_out] == [(lost.run_id, end)]

    def test_reason_contains_no_control_characters(self) -> None:
        several("good", [50, 52, 54])
        finished("good", 3, end="\x1b[2Jgone")
        assert [entry.reason for entry in board().left_out] == ["?[2Jgone"]

    def test_running_run_is_left_out(self) -> None:
        several("good", [50, 52, 54])
        running = finished("good", 3)
        whole = running.events_file.read_text().splitlines(keepends=True)
        running.events_file.write_text("".join(whole[:-1]))
        assert [entry.reason for entry in board().left_out] == ["not finished"]

    def test_other_protocol_is_left_out(self) -> None:
        several("good", [50, 52, 54])
        finished("good", 3, 1, job={"protocol": BUDGET.protocol - 1})
        found = board()
        assert [row.n for row in found.rows] == [3]
        assert found.left_out[0].reason == f"protocol {BUDGET.protocol - 1}; the rules are now {BUDGET.protocol}"

    def test_first_run_of_a_seed_counts(self) -> None:
        first, *_ = several("good", [50, 52, 54])
        again = finished("good", 0, 1)
        found = board()
        assert found.rows[0].scores[0] == pytest.approx(0.995)
        assert [(entry.run_id, entry.reason) for entry in found.left_out] == [
            (again.run_id, f"seed 0 again; {first.run_id} counts")
        ]

    @pytest.mark.parametrize("text", ["{}\n", "no JSON\n", '{"event": "started"}\n{"event": "finished"}\n', "[1]\n"])
    def test_damaged_journal_is_left_out(self, text: str) -> None:
        several("good", [50, 52, 54])
        damaged = finished("good", 3)
        damaged.events_file.write_text(text)
        found = board()
        assert [row.n for row in found.rows] == [3]
        assert [entry.run_id for entry in found.left_out] == [damaged.run_id]

    def test_edited_score_is_left_out(self) -> None:
        several("good", [50, 52, 54])
        edited = finished("good", 3, 60, ended={"accuracy": 0.9999})
        found = board()
        assert [row.n for row in found.rows] == [3]
        (left_out,) = found.left_out
        assert (left_out.run_id, left_out.reason) == (edited.run_id, "its score is not that of its last epoch")

    def test_answers_of_another_run_are_left_out(self) -> None:
        first, *_ = several("good", [50, 52, 54])
        better = finished("good", 3, 10)
        shutil.copy(better.folder / "test.npz", first.folder)
        (left_out,) = board().left_out
        assert (left_out.run_id, left_out.reason) == (first.run_id, "its score does not follow from its predictions")

    def test_answers_below_leaders_are_verified(self) -> None:
        for number in range(6):
            several(f"net{number}", [40 + 10 * number + seed for seed in range(3)])
        junk = all_journals()[-1]
        (junk.folder / "test.npz").write_bytes(b"junk")
        assert [entry.run_id for entry in board().left_out] == [junk.run_id]

    def test_certificate_below_leaders_is_verified(self) -> None:
        for number in range(5):
            several(f"net{number}", [20 + seed for seed in range(3)], parameters=1_000 + number)
        for seed in range(10):
            edited = finished("zedited", seed, 300)
            edit(edited, "finished", accuracy=0.997, best_accuracy=0.997, best_epoch=1, epochs_to_target=1)
            edit(edited, "epoch", held_out_accuracy=0.997)
        assert [row.architecture for row in board().rows] == [f"net{number}" for number in range(5)]

    def test_local_run_precedes_imported_run(self) -> None:
        journals = several("good", [50, 52, 54])
        stranger = finished("good", 0, 1, started={"time": 1})
        (stranger.folder / "origin.json").write_text('{"from": "there", "trials": 0}')
        found = board()
        assert found.rows[0].imported == 0
        (left_out,) = found.left_out
        assert left_out.run_id == stranger.run_id
        assert left_out.reason.endswith("what was trained here counts")
        assert found.rows[0].runs[0].run_id == journals[0].run_id

    def test_one_training_under_two_seeds_counts_once(self) -> None:
        first, *_ = several("good", [50, 52, 54])
        copy = finished("good", 0, 50, job={"seed": 7})
        found = board()
        assert found.rows[0].n == 3
        (left_out,) = found.left_out
        assert left_out.run_id == copy.run_id
        assert left_out.reason == f"its training losses are those of {first.run_id}"

    @pytest.mark.parametrize("harm", ["gone", "torn", "empty"])
    def test_unreadable_answers_are_left_out(self, harm: str) -> None:
        several("good", [50, 52, 54])
        file = finished("good", 3).folder / "test.npz"
        if harm == "gone":
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[: 500 if harm == "torn" else 0])
        found = board()
        assert [row.n for row in found.rows] == [3]
        assert "predictions" in found.left_out[0].reason

    def test_different_configurations_are_never_averaged(self) -> None:
        finished("net", 0)
        finished("other", 1)
        finished("net", 2, knobs={"width": 12})
        finished("net", 3, recipe={"lr": 0.1})
        digits = data.load("digits").held_out.labels.numpy()
        finished("net", 4, 3, dataset="digits", labels=digits)
        found = board()
        assert all(row.n == 1 for row in found.rows)
        named = {tuple(row.name.split()[:1] + row.name.split()[2:]) for row in found.rows}
        assert named == {("net",), ("other",), ("net", "width=12"), ("net", "lr=0.1")}
        assert found.elsewhere == {"digits": {"net"}}
        assert [row.scores for row in board("digits").rows] == [[1 - 3 / 360]]

    def test_edited_file_is_another_row(self) -> None:
        several("net", [50, 52, 54])
        several("net", [60, 62, 64], source=source_of("net") + "# better now\n")
        first, second = board().rows
        assert first.label != second.label
        assert {first.label.split()[0], second.label.split()[0]} == {"net"}
        assert board().find(second.label).scores == second.scores

    def test_journal_order_makes_no_difference(self) -> None:
        several("good", [50, 52, 54])
        several("bad", [51, 52, 54])
        journals = all_journals()
        before = rank(journals)
        random.Random(0).shuffle(journals)
        after = rank(journals)
        assert [(row.name, row.seeds, row.scores) for row in after.rows] == [
            (row.name, row.seeds, row.scores) for row in before.rows
        ]
        assert [pair.comparison for pair in after.pairs] == [pair.comparison for pair in before.pairs]

    def test_nothing_to_rank_is_explained(self) -> None:
        with pytest.raises(UsageError, match="no finished run"):
            board()
        finished("net", 0, job={"protocol": 0})
        with pytest.raises(UsageError) as raised:
            board()
        assert "protocol 0; the rules are now" in raised.value.allowed


class TestRanking:
    def test_lucky_seed_never_beats_ten_seeds(self) -> None:
        several("honest", [55 + n % 3 for n in range(10)])
        several("lucky", [30, 31])
        first, second = board().rows
        assert (first.name, first.rank) == ("honest", 1)
        assert (second.name, second.rank, second.is_provisional) == ("lucky", None, True)

    def test_equal_means_share_a_rank(self) -> None:
        several("b", [50, 52, 54])
        several("a", [54, 52, 50])
        several("c", [60, 61, 62])
        several("d", [52, 52, 52, 52])
        assert [(row.name, row.rank) for row in board().rows] == [("a", 1), ("b", 1), ("d", 1), ("c", 4)]

    @pytest.mark.parametrize(
        ("errors", "looks"),
        [
            ([50, 51] * 5, {10: True}),
            ([50, 51] * 4, {}),
            ([59, 60] * 5, {10: False}),  # above the target, but not surely
            ([50, 51] * 5 + [70, 71], {10: True}),  # between looks the status stays
            ([58, 59] * 5 + [40, 41] * 5, {10: False, 20: True}),
            ([50, 51] * 5 + [75, 76] * 5, {10: True, 20: False}),  # both are said
            ([50, 51] * 10 + [90] * 4, {10: True, 20: True}),
        ],
    )
    def test_certificate_is_checked_at_10_and_20_seeds(self, errors: list[int], looks: dict[int, bool]) -> None:
        several("net", errors)
        (row,) = board().rows
        assert {count: bound >= BUDGET.accuracy for count, bound in row.looks.items()} == looks
        assert row.certified_at == [count for count, held in looks.items() if held]

    def test_other_ten_seeds_are_no_look(self) -> None:
        for seed in range(1, 11):
            finished("net", seed, 30)
        assert board().rows[0].looks == {}

    def test_bound_on_new_images_is_lower(self) -> None:
        for seed, count in enumerate((50, 52, 54)):
            finished("net", seed, answers=answers_with(np.arange(len(LABELS)) < count))  # the same images
        (row,) = board().rows
        assert row.lower_bound == pytest.approx(0.9948 - 2.9199856 * 2e-4 / 3**0.5)  # t table, 2 d.f.
        assert row.bound_on_new_images is not None
        assert row.bound_on_new_images < row.lower_bound

    def test_row_of_fewer_epochs_is_unranked(self) -> None:
        several("serious", [50, 51])
        several("short", [40, 41, 42], recipe={"epochs": 1})
        several("full", [60, 61, 62])
        rows = board().rows
        assert [(row.architecture, row.rank, row.epochs, row.full_epochs) for row in rows] == [
            ("full", 1, 3, 3),
            ("serious", None, 3, 3),
            ("short", None, 1, 3),
        ]
        assert [row.architecture for row in leaderboard.pareto(rows)] == ["full"]
        assert {leader.row.architecture for leader in leaderboard.leaders_by_size(rows).values()} == {"full"}

    def test_leader_bound_allows_for_its_size_class(self) -> None:
        several("alone", [70, 74, 78], parameters=900)
        for number in range(4):
            several(f"net{number}", [50 + number, 50 + number, 50 + number], parameters=4_000)
        leaders = leaderboard.leaders_by_size(board().rows)
        assert {size: (leader.row.name, leader.rows) for size, leader in leaders.items()} == {
            5_000: ("net0", 4),
            1_000: ("alone", 1),
        }
        assert leaders[5_000].bound < 0.995  # though its own scores are equal
        assert leaders[1_000].bound < (leaders[1_000].row.lower_bound or 0)

    def test_trials_behind_the_settings_are_counted(self) -> None:
        journal, *_ = several("net", [50, 52, 54], knobs={"width": 12})
        record = journal.read()
        assert record
        search = {"architecture_sha256": record.job.sha256, "dataset_digest": record.job.dataset_digest}

        def study(width: int) -> StudyRecord:
            trials = tuple(Trial(n, "complete", 0.9, {"width": width + n, "epochs": 1}) for n in range(7))
            return StudyRecord("id", search, 0, 7, "finished", trials, {}, {})

        assert board().rows[0].trials == 0
        assert board(studies=(study(10), study(50))).rows[0].trials == 7

    def test_pareto_front_omits_dominated_and_unranked_rows(self) -> None:
        several("small", [70, 71, 72], parameters=2_000)
        several("large", [50, 51, 52], parameters=9_000)
        several("useless", [60, 61, 62], parameters=9_500)
        several("lucky", [10], parameters=1_000)
        found = board()
        assert [row.name for row in leaderboard.pareto(found.rows)] == ["small", "large"]
        assert {size: leader.row.name for size, leader in leaderboard.leaders_by_size(found.rows).items()} == {
            10_000: "large",
            2_000: "small",
        }

    def test_images_wrong_for_all_are_found(self) -> None:
        for seed in range(3):
            wrong = wrong_at_random(20, seed)
            wrong[[7, 4_000]] = True
            finished("net", seed, answers=answers_with(wrong))
        assert leaderboard.wrong_for_all(board().rows) == [7, 4_000]


class TestComparison:
    def test_leader_pairs_are_adjusted_together(self) -> None:
        for number in range(7):
            several(f"net{number}", [40 + 10 * number + seed for seed in range(3)])
        pairs = board().pairs
        assert [(pair.a.name, pair.b.name) for pair in pairs[:4]] == [("net0", f"net{n}") for n in range(1, 5)]
        assert len(pairs) == 10
        assert all(
            pair.p >= pair.comparison.p for pair in pairs if pair.p is not None and pair.comparison.p is not None
        )

    def test_requested_pair_is_adjusted_for_all_pairs(self) -> None:
        for number in range(7):
            several(f"net{number}", [50 + 8 * number + seed for seed in range(4)])
        several("provisional", [50, 51])
        found = board()
        asked = leaderboard.compare_asked(found.rows, found.rows[0], found.rows[6])
        assert asked.among == 21  # of seven ranked rows
        assert asked.p is not None
        assert asked.comparison.p is not None
        assert asked.p <= 21 * asked.comparison.p

    def test_provisional_rows_are_no_leaders(self) -> None:
        for number in range(6):
            several(f"net{number}", [50 + 8 * number + seed for seed in range(4)])
        for number in range(3):
            several(f"lucky{number}", [10, 11])
        assert len(board().pairs) == 10

    def test_requested_provisional_row_widens_the_adjustment(self) -> None:
        several("a", [50, 52, 54])
        several("b", [60, 62, 64])
        several("lucky", [10, 11])
        found = board()
        assert leaderboard.compare_asked(found.rows, found.rows[0], found.rows[2]).among == 3

    def test_requested_pair_keeps_its_verdict(self) -> None:
        for number in range(4):
            several(f"net{number}", [50 + 8 * number + seed for seed in range(4)])
        found = board()
        for pair in found.pairs:
            asked = leaderboard.compare_asked(found.rows, pair.b, pair.a)
            assert asked.p == pytest.approx(pair.p)
            assert {asked.verdict, pair.verdict} in ({"better", "worse"}, {"cannot tell yet"})

    def test_requested_leaders_are_adjusted_for_whole_board(self) -> None:
        for number in range(7):
            several(f"net{number}", [50 + 8 * number + seed for seed in range(4)])
        found = board()
        asked = leaderboard.compare_asked(found.rows, found.rows[0], found.rows[1])
        (pair,) = (pair for pair in found.pairs if (pair.a, pair.b) == (asked.a, asked.b))
        assert (asked.among, pair.among) == (21, 10)
        assert (asked.p or 0) >= (pair.p or 0)

    def test_clear_difference_gives_a_verdict(self) -> None:
        several("good", [30, 31, 32, 33, 34])
        several("bad", [130, 131, 132, 133, 134])
        good, bad = board().rows
        assert [pair.verdict for pair in leaderboard.compare_all([(good, bad)])] == ["better"]
        assert [pair.verdict for pair in leaderboard.compare_all([(bad, good)])] == ["worse"]

    def test_single_runs_get_mcnemar_without_verdict(self) -> None:
        finished("good", 0, answers=answers_with(LABELS < 0))
        finished("bad", 0, 60)
        (pair,) = leaderboard.compare_all([board().rows])  # type: ignore[list-item]
        assert pair.verdict == "cannot tell yet"
        assert pair.mcnemar == pytest.approx(2 * 0.5**60)
        assert pair.p is None

    def test_undecided_pair_names_seeds_needed(self) -> None:
        several("good", [50, 54, 58])
        several("bad", [52, 56, 60])
        (pair,) = board().pairs
        assert pair.verdict == "cannot tell yet"
        assert pair.comparison.seeds is None or pair.comparison.seeds > 3

    def test_row_is_found_by_rank_label_or_name(self) -> None:
        several("good", [50, 52, 54])
        several("good", [60, 62, 64], knobs={"width": 12})
        found = board()
        first, second = found.rows
        for name in ("good", "1"):
            assert found.find(name) is first
        for name in ("2", second.label, second.name, second.id, second.id[:4]):
            assert found.find(name) is second
        with pytest.raises(UsageError, match="No row of mnist is called 'god'") as raised:
            found.find("god")
        assert "'good'" in raised.value.hint

    @pytest.mark.parametrize("asked", ["anna", "anna 45c2", "architectures/anna.py"])
    def test_row_of_another_dataset_is_pointed_out(self, asked: str) -> None:
        several("good", [50, 52, 54])
        digits = data.load("digits").held_out.labels.numpy()
        finished("anna", 0, 6, dataset="digits", labels=digits)
        with pytest.raises(UsageError, match=f"No row of mnist is called '{asked}'") as raised:
            board().find(asked)
        assert raised.value.hint.endswith("is a row of digits: add --dataset digits.")
        with pytest.raises(UsageError) as raised:
            board().find("5")
        assert raised.value.hint == "Name a row by its name on the board, or add --dataset digits."
        with pytest.raises(UsageError) as raised:
            board().find("architectures/good.py")
        assert raised.value.hint == "Did you mean 'good'?"
        with pytest.raises(UsageError, match="no finished run on fashion-mnist") as raised:
            rank(all_journals(), "fashion-mnist")
        assert raised.value.hint.endswith(
            "There are runs on mnist: --dataset mnist. There are runs on digits: --dataset digits."
        )

    def test_ambiguous_name_is_refused(self) -> None:
        several("good", [60, 62, 64], knobs={"width": 12})
        several("good", [60, 62, 64], knobs={"width": 14})
        with pytest.raises(UsageError, match="2 rows of mnist are called 'good'"):
            board().find("good")

    def test_shared_rank_is_refused_with_names(self) -> None:
        several("a", [54, 52, 50])
        several("b", [50, 52, 54])
        with pytest.raises(UsageError, match="2 rows of mnist are called '1'") as raised:
            board().find("1")
        assert "'a', 'b'" in raised.value.allowed
        assert "rank" not in raised.value.hint


@given(seeds=st.sets(st.integers(0, 40), min_size=1))
@settings(max_examples=60)
def test_stretches_cover_exactly_the_seeds(seeds: set[int]) -> None:
    found = stretches(sorted(seeds))
    assert [seed for first, count in found for seed in range(first, first + count)] == sorted(seeds)
    assert all(left[0] + left[1] < right[0] for left, right in itertools.pairwise(found))


def test_row_commands_reproduce_the_row() -> None:
    for seed in (0, 1, 4):
        finished("net", seed, knobs={"width": 12}, recipe={"nesterov": True, "lr": 0.1})
    (row,) = board().rows
    architecture = from_source(source_of("net"), "net.py")
    for command, (first, count) in zip(row.commands, [(0, 2), (4, 1)], strict=True):
        words = command.split()
        assert words[:5] == ["python", "-m", "harness", "run", "architectures/net.py"]
        assert words[-4:] == ["--seed", str(first), "--seeds", str(count)]
        given_settings = [words[place + 1] for place, word in enumerate(words) if word == "--set"]
        knobs, recipe = options.parse_settings(architecture, options.settings(given_settings))
        assert knobs == row.first.job.knobs
        assert recipe == row.first.job.recipe
