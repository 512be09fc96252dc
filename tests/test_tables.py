"""The board as people read it: every form says the same, and the page stands alone and sorts."""

from __future__ import annotations

import csv
import html.parser
import io
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_runs import LABELS, answers_with, finished, wrong_at_random

from harness import plots
from harness.journal import all_journals, archive
from harness.leaderboard import (
    Board,
    asked_table,
    compare_asked,
    leaders_by_size,
    left_out,
    rank,
    tables,
    to_csv,
    to_html,
    to_json,
    to_markdown,
)
from harness.leaderboard.formats import FACTS
from harness.leaderboard.tables import NEW_IMAGES, THIS_SET
from harness.statistics import lower_bound

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hold runs of an undecided ranked pair, a clear last, and a provisional one."""
    made = tmp_path_factory.mktemp("board")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        for name, first, seeds in (("good", 50, 4), ("alike", 51, 4), ("bad", 140, 3), ("single", 45, 1)):
            for seed in range(seeds):
                finished(name, seed, first + 4 * seed, parameters=first * 40)
        finished("good", 4, end="failed")
    return made


@pytest.fixture
def board(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    monkeypatch.chdir(folder)
    return rank(all_journals())


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave every figure empty: drawing takes nearly all the time that a page takes."""
    from matplotlib.figure import Figure

    for name in ("bands", "forest", "hardest_images", "learning_curves", "sizes_and_errors"):
        monkeypatch.setattr(plots, name, lambda *_: Figure((1, 1)))


@pytest.fixture
def page(board: Board, undrawn: None) -> str:
    """Return the page of the board with empty figures."""
    return to_html(board)


class Tables(html.parser.HTMLParser):
    """Reads the text of every table cell, and every address the page would ask for."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.addresses: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.figures: list[str | None] = []
        self._cell: list[str] | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag == "img":
            self.images.append(dict(attrs))
        if tag == "figure" and ("role", "img") in attrs:
            self.figures.append(dict(attrs)["aria-label"])
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self._cell = []

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._cell is not None:
            self.tables[-1][-1].append("".join(self._cell).strip())
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)


def markdown_tables(text: str) -> list[list[list[str]]]:
    found: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            if set(line) - set("|:- "):
                found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


class TestFormats:
    def test_markdown_and_html_have_the_same_tables(self, board: Board, page: str) -> None:
        in_markdown = markdown_tables(to_markdown(board))
        in_html = Tables(page).tables
        assert len(in_markdown) == 5
        assert in_html[:5] == in_markdown

    def test_ranking_reads_as_computed(self, board: Board) -> None:
        (head, first, *_), *_ = markdown_tables(to_markdown(board))
        good = board.rows[0]
        assert dict(zip(head, first, strict=True)) == {
            "rank": "1",
            "network": "good",
            "parameters": "2,000",
            "accuracy (%)": "99.440",
            "seeds": "4",
            "95 % interval, this test set": f"{100 * (good.score.low or 0):.2f} to {100 * (good.score.high or 0):.2f}",
            "at least, this test set": f"{100 * (good.lower_bound or 0):.3f}",
            "at least, new images": f"{100 * (good.bound_on_new_images or 0):.3f}",
            "targets": "all 3 met",
            "certified": "",
        }

    def test_statistics_name_their_population(self, board: Board) -> None:
        asked = compare_asked(board.rows, board.rows[0], board.rows[2])
        for table in tables(replace(board, asked=asked)):
            tells = [heading for heading in table.headings if any(word in heading for word in ("interval", "least"))]
            assert all(heading.endswith((THIS_SET, NEW_IMAGES)) for heading in tells)
            assert "p, adjusted" not in table.headings or NEW_IMAGES in table.note

    @pytest.mark.usefixtures("undrawn")
    def test_requested_pair_appears_in_every_format(self, board: Board) -> None:
        asked = replace(board, asked=compare_asked(board.rows, board.rows[0], board.rows[2]))
        said = "python -m harness compare good bad --seeds 10 --dataset mnist"
        assert said in to_markdown(asked)
        assert said in to_html(asked)
        assert "all 3 pairs of ranked rows" in to_markdown(asked)
        assert json.loads(to_json(asked))["asked"]["among"] == 3
        assert json.loads(to_json(board))["asked"] is None

    def test_requested_leaders_cite_the_board(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        for number in range(6):
            for seed in range(3):
                finished(f"net{number}", seed, 50 + number + 5 * seed)
        found = rank(all_journals())
        note = asked_table(found, compare_asked(found.rows, *found.rows[:2])).note
        assert "all 15 pairs of ranked rows" in note
        assert f"among those 10 pairs p is {found.pairs[0].p:.3f}" in note

    def test_csv_has_the_bound_at_each_look(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        for seed in range(10):
            finished("net", seed, 58)
        found = rank(all_journals())
        (row,) = csv.DictReader(io.StringIO(to_csv(found)))
        assert row["looks"] == f"10={found.rows[0].looks[10]}"
        assert row["targets"] == "parameters;epochs;accuracy"

    def test_single_runs_are_compared_as_trained_networks(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        finished("good", 0, answers=answers_with(LABELS < 0))
        finished("bad", 0, 60)
        found = rank(all_journals())
        (row,) = asked_table(found, compare_asked(found.rows, *found.rows)).rows
        assert row[-2] == "cannot tell yet"
        assert "of these two trained networks and no others: McNemar p below 0.001" in row[-1]

    def test_certificate_lost_at_20_seeds_shows_both(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        for seed in range(20):
            finished("net", seed, 50 if seed < 10 else 75)
        found = rank(all_journals())
        (row,) = tables(found)[0].rows
        assert row[-1] == f"99.4 % at 10 seeds, not at 20 ({100 * found.rows[0].looks[20]:.3f})"

    def test_fewer_epochs_and_equal_scores_are_marked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        for seed in range(3):
            finished("net", seed, 50, recipe={"epochs": 1})
        (row,) = tables(rank(all_journals()))[0].rows
        assert row[0] == "1 of 3 epochs"
        assert row[5] == "equal scores"

    def test_csv_and_json_have_every_fact(self, board: Board) -> None:
        rows = list(csv.DictReader(io.StringIO(to_csv(board))))
        whole = json.loads(to_json(board))
        assert (
            [row["network"] for row in rows]
            == [row["network"] for row in whole["rows"]]
            == [row.name for row in board.rows]
        )
        assert [float(row["accuracy"]) for row in rows] == [row.score.mean for row in board.rows]
        assert {fact.key for fact in FACTS} < set(whole["rows"][0])
        assert whole["left_out"] == [{"run": board.left_out[0].run_id, "reason": "failed"}]
        assert {pair["verdict"] for pair in whole["pairs"]} == {"better", "cannot tell yet"}

    def test_excluded_runs_are_listed(self, board: Board, page: str) -> None:
        said = f"1 left out: failed: {board.left_out[0].run_id}"
        assert list(left_out(board)) == [said]
        assert said in to_markdown(board)
        assert said in page

    @pytest.mark.usefixtures("undrawn")
    def test_pipes_and_tags_are_escaped(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        finished("net", 0, knobs={"width": "<b>|x"})
        odd = rank(all_journals())
        page = to_html(odd)
        assert "<b>|x" not in page
        assert "&lt;b&gt;|x" in page
        assert r"&lt;b>\|x" in to_markdown(odd)


HERE = Path(__file__).parent


@pytest.fixture
def committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    """Return the board of the committed runs."""
    monkeypatch.chdir(tmp_path)
    assert not any(arrival.refused for arrival in archive.import_runs(HERE / "data" / "reference_runs.zip"))
    return rank(all_journals())


def test_committed_board_matches_committed_runs(committed: Board) -> None:
    assert to_markdown(committed) == (HERE.parent / "LEADERBOARD.md").read_text(encoding="utf-8")


class TestReadme:
    """What it says of recorded runs is what they give."""

    TABLES = markdown_tables((HERE.parent / "README.md").read_text(encoding="utf-8"))

    def table(self, first: str) -> list[dict[str, str]]:
        (found,) = (table for table in self.TABLES if table[0][0] == first)
        return [dict(zip(found[0], row, strict=True)) for row in found[1:]]

    def test_five_reference_networks(self, committed: Board) -> None:
        rows = self.table("network")
        assert len(rows) == 5
        for said in rows:
            row = committed.find(said["network"].strip("`"))
            assert row.score.low is not None
            assert row.score.high is not None
            assert said["parameters"] == f"{row.parameters:,}"
            assert said["seeds"] == str(row.n)
            assert said["score: last epoch"] == f"{100 * row.mean:.3f} %"
            assert said["95 % interval, this test set"] == f"{100 * row.score.low:.2f} to {100 * row.score.high:.2f}"
            assert said["best epoch (never ranks)"] == f"{100 * row.best:.3f} %"

    def test_leaders_by_size(self, committed: Board) -> None:
        leaders = leaders_by_size(committed.rows)
        rows = self.table("up to")
        assert [int(said["up to"].replace(",", "")) for said in rows] == [*leaders]
        for said, leader in zip(rows, leaders.values(), strict=True):
            assert said["parameters"] == f"{leader.row.parameters:,}"
            assert said["seeds"] == str(leader.row.n)
            assert said["score: last epoch"] == f"{100 * leader.row.mean:.3f} %"
            assert said["at least, this test set"] == f"{100 * leader.bound:.3f} %"
            assert said["best of"] == str(leader.rows)

    def test_readme_quotes_the_flagship_numbers(self, committed: Board) -> None:
        text = " ".join((HERE.parent / "README.md").read_text(encoding="utf-8").split())
        row = committed.find("s6_gap")
        in_bfloat16 = [run.result.accuracy for run in row.runs if run.facts.start.mode.precision == "bfloat16"]
        for value in (row.mean, row.lower_bound, lower_bound(in_bfloat16), row.looks[10], row.bound_on_new_images):
            assert value is not None
            assert f"{100 * value:.3f}" in text
        runs = [run for each in committed.rows for run in each.runs]
        gap = np.mean([run.result.best_accuracy - run.result.accuracy for run in runs])
        assert f"worth {100 * gap:.2f} points on average ({len(runs)} recorded runs" in text


class TestPage:
    def test_page_makes_no_network_request(self, board: Board) -> None:
        page = to_html(board)
        assert all(address.startswith(("#", "data:")) for address in Tables(page).addresses)
        assert "url(http" not in page
        assert "@import" not in page

    def test_every_image_has_alt_text(self, board: Board, page: str) -> None:
        assert all(image["alt"] for image in Tables(page).images)
        figures = Tables(page).figures
        assert all(figures)
        assert figures[3:] == [f"{row.architecture} seed 0: learning curves" for row in board.rows]

    def test_every_file_has_a_section_with_commands(self, board: Board, page: str) -> None:
        for row in board.rows:
            assert f'<h2 id="{row.id}">{row.architecture}</h2>' in page
            assert f"{row.architecture} in a line." in page
            assert row.commands[0] in page

    @pytest.mark.thorough
    def test_same_board_gives_same_page(self, board: Board) -> None:
        assert to_html(board) == to_html(board)

    @pytest.mark.usefixtures("undrawn")
    def test_images_wrong_for_all_are_shown(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        for seed in range(3):
            wrong = wrong_at_random(20, seed)
            wrong[7] = True
            finished("net", seed, answers=answers_with(wrong))
        page = to_html(rank(all_journals()))
        assert f'alt="test image 7, a {LABELS[7]}"' in page
        assert "<br>#7</li>" in page

    @pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
    @pytest.mark.parametrize(("column", "clicks"), [(2, 1), (2, 2), (3, 1), (1, 1)])
    def test_clicking_a_heading_sorts_the_table(
        self, board: Board, page: str, tmp_path: Path, column: int, clicks: int
    ) -> None:
        click = f"document.querySelectorAll('table')[0].tHead.rows[0].cells[{column}].querySelector('button').click();"
        clicking = page.replace("</body>", f"<script>{click * clicks}</script></body>")
        (tmp_path / "board.html").write_text(clicking)
        command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        address = (tmp_path / "board.html").as_uri()
        shown = subprocess.run([*command, address], capture_output=True, text=True, timeout=60, check=True).stdout
        _, *rows = Tables(shown).tables[0]
        keys = {
            1: [row.name for row in board.rows],
            2: [row.parameters for row in board.rows],
            3: [row.score.mean for row in board.rows],
        }[column]
        order = np.argsort(keys)[:: 1 if clicks == 1 else -1]
        assert [row[1] for row in rows] == [board.rows[place].name for place in order]
