"""Rank finished runs by their score after the last epoch, and say who is better and how sure that is.

It reads the journals. Failed and unfinished runs never rank, and what is left out is said with its reason.
Datasets never share a ranking.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from harness import exchange, leaderboard, report, tuning
from harness.cli import show
from harness.data import NAMES
from harness.errors import UsageError
from harness.journal import all_journals
from harness.leaderboard import Board, Pair
from harness.report import Table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dataset",
        default="auto",
        choices=("auto", *NAMES),
        help="which board (default: auto, mnist if it has a run)",
    )
    parser.add_argument("--compare", nargs=2, metavar=("A", "B"), help="compare two rows, by rank, name or id")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="print it as Markdown")
    form.add_argument("--csv", action="store_true", help="print every fact about every row as CSV")
    form.add_argument("--json", action="store_true", help="print rows, comparisons and what is left out as JSON")
    form.add_argument("--html", type=Path, metavar="FILE", help="write one self-contained page")
    parser.add_argument("--export", type=Path, metavar="FILE", help="write the runs of the board to one file")
    parser.add_argument(
        "--import", type=Path, metavar="FILE", dest="arriving", help="first take in the runs of an exported file"
    )


def main(args: argparse.Namespace) -> int:
    code = show.arrivals(exchange.take_in(args.arriving), str(args.arriving)) if args.arriving else 0
    board = leaderboard.rank(all_journals(), args.dataset, [*tuning.records()])
    if args.compare:
        board = replace(board, pairs=_compared(board, *args.compare))
    if args.export:
        runs = [(run.journal, row.trials) for row in board.rows for run in row.runs]
        print(f"{exchange.export(runs, args.export)} runs written to {args.export}", file=sys.stderr)
    if args.html:
        _write(args.html, report.to_html(board))
    elif args.markdown or args.csv or args.json:
        form = report.to_markdown if args.markdown else report.to_csv if args.csv else report.to_json
        print(form(board).rstrip("\n"))
    elif args.compare:
        _print(report.pair_table(board.pairs))
    elif not args.export:
        _show(board)
    return code


def _compared(board: Board, first: str, second: str) -> tuple[Pair, ...]:
    a, b = board.find(first), board.find(second)
    if a is b:
        raise UsageError(f"Both names mean {a.name}.", mend="Name two rows.")
    return tuple(leaderboard.compare_all([a, b]))


def _show(board: Board) -> None:
    for table in report.tables(board):
        _print(table)
    for line in report.left_out(board):
        show.console.print(line, style="yellow")
    show.console.print("one page to hand in: python -m harness leaderboard --html board.html")


def _print(table: Table) -> None:
    show.console.rule(table.title, align="left")
    if table.note:
        show.console.print(table.note, style="dim")
    shown = show.table(*table.headings, right=table.right)
    for row in table.rows:
        shown.add_row(*row)
    show.console.print(shown)
    show.console.print()


def _write(place: Path, text: str) -> None:
    try:
        place.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{place} cannot be written: {error.strerror}.", mend="Name a file elsewhere.") from error
    show.console.print(f"written to {place}: open it in a browser, or hand it in")
