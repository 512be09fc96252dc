"""The leaderboard: ranks and compares finished runs; prints tables, documents and an HTML page."""

from harness.leaderboard.compare import Pair, compare_all, compare_asked
from harness.leaderboard.formats import facts, to_csv, to_json, to_markdown
from harness.leaderboard.handover import held_back, lost
from harness.leaderboard.page import to_html
from harness.leaderboard.rank import Board, correct_predictions, leaders_by_size, pareto, rank, wrong_for_all
from harness.leaderboard.remarks import about, notes, remarks, remarks_on
from harness.leaderboard.row import identity, row_key
from harness.leaderboard.tables import Table, asked_table, left_out, tables
from harness.leaderboard.withdrawal import withdraw

__all__ = [
    "Board",
    "Pair",
    "Table",
    "about",
    "asked_table",
    "compare_all",
    "compare_asked",
    "correct_predictions",
    "facts",
    "held_back",
    "identity",
    "leaders_by_size",
    "left_out",
    "lost",
    "notes",
    "pareto",
    "rank",
    "remarks",
    "remarks_on",
    "row_key",
    "tables",
    "to_csv",
    "to_html",
    "to_json",
    "to_markdown",
    "withdraw",
    "wrong_for_all",
]
