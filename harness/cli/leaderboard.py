"""Rank finished runs by their score after the last epoch, and say which differences are significant.

Reads the journals. Failed and unfinished runs never rank; runs that are left out are listed with the reason. Each
dataset has a ranking of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from harness import leaderboard, tuning
from harness.cli.console import console, new_table, print_wide, report_imports
from harness.cli.exit import report as report_error
from harness.data import NAMES
from harness.errors import DataError, UsageError
from harness.events import StudyRecord
from harness.journal import all_journals, archive
from harness.leaderboard import (
    Board,
    Pair,
    Table,
    about,
    asked_table,
    held_back,
    left_out,
    lost,
    tables,
    to_csv,
    to_html,
    to_json,
    to_markdown,
)

SHOWN = 50
"""Most rows of a table that the terminal shows."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dataset",
        default="auto",
        choices=("auto", *NAMES),
        help="dataset of the board (default: auto, mnist if it has a run)",
    )
    parser.add_argument("--compare", nargs=2, metavar=("A", "B"), help="compare two rows, by rank, name or id")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="print the board as Markdown")
    form.add_argument("--csv", action="store_true", help="print every fact about every row as CSV")
    form.add_argument("--json", action="store_true", help="print rows, comparisons and left-out runs as JSON")
    form.add_argument("--html", type=Path, metavar="FILE", help="write one self-contained page")
    parser.add_argument("--export", type=Path, metavar="FILE", help="write the runs of the board to one file")
    parser.add_argument(
        "--import", type=Path, metavar="FILE", dest="arriving", help="first import the runs of an exported file"
    )
    parser.add_argument(
        "--withdraw",
        metavar="RUN",
        help="withdraw a finished run (a folder of mlruns/journal/): it stays visible, no longer counts, and its seed "
        "counts as missing for certificates; this cannot be undone",
    )
    parser.add_argument("--because", metavar="REASON", help="the reason of --withdraw, which boards show")


def main(args: argparse.Namespace) -> int:
    with _no_collection():
        return _main(args)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Disable garbage collection: scanning ten thousand parsed journals repeatedly would double the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _main(args: argparse.Namespace) -> int:
    if args.compare and args.csv:
        raise UsageError("--compare has no CSV form.", hint="Use --json.")
    if args.withdraw is not None or args.because is not None:
        return _withdraw(args)
    arriving = partial(archive.import_runs, args.arriving)
    code = report_imports(arriving, str(args.arriving)) if args.arriving else 0
    try:
        board = leaderboard.rank(all_journals(), args.dataset, [*_studies()])
    except UsageError as error:
        if not code:
            raise
        report_error(error)
        return code
    if args.compare:
        board = replace(board, asked=_compared(board, *args.compare))
    if args.export:
        runs = [(run.journal, row.trials) for row in board.rows for run in row.runs]
        verified = [found for row in board.rows for found in row.verifications]
        count = archive.export(runs, args.export, held_back(board), verified, lost(board))
        print(f"{count} runs written to {args.export}", file=sys.stderr)
    if args.html:
        _write(args.html, to_html(board))
    elif args.markdown or args.csv or args.json:
        form = to_markdown if args.markdown else to_csv if args.csv else to_json
        print(form(board).rstrip("\n"))
    elif board.asked:
        _print(asked_table(board, board.asked))
    elif not args.export:
        _show(board)
    return code


def _withdraw(args: argparse.Namespace) -> int:
    if args.withdraw is None or args.typed - {"--withdraw", "--because", "--dataset"}:
        raise UsageError("--withdraw RUN and --because REASON go together, and with nothing else but --dataset.")
    run_id = leaderboard.withdraw(args.withdraw, args.because or "", args.dataset)
    console.print(f"{run_id} is withdrawn: the board shows it with its reason, and its seed counts as missing")
    console.print("to tell MLflow as well: python -m harness sync")
    return 0


def _studies() -> Iterator[StudyRecord]:
    try:
        yield from tuning.records()
    except DataError as error:  # only the numbers of trials are lost
        print(f"trials are not counted: {error.message}", file=sys.stderr)


def _compared(board: Board, first: str, second: str) -> Pair:
    a, b = board.find(first), board.find(second)
    if a is b:
        raise UsageError(f"Both names mean {a.name}.", hint="Name two rows.")
    return leaderboard.compare_asked(board.rows, a, b)


def _show(board: Board) -> None:
    for table in tables(board):
        _print(table)
    if said := about(board):
        console.rule("About the rows", align="left")
        lines = (line for item, parts in said for line in (item, *(f"  {part}" for part in parts)))
        console.print(*lines, "", sep="\n")
    for line in left_out(board):
        console.print(line, style="yellow")
    console.print("one page to hand in: python -m harness leaderboard --html board.html")


def _print(table: Table) -> None:
    console.rule(table.title, align="left")
    if table.note:
        console.print(table.note, style="dim")
    shown = new_table(*table.headings, right=table.right)
    for row in table.rows[:SHOWN]:
        shown.add_row(*row)
    print_wide(shown)
    if len(table.rows) > SHOWN:
        console.print(f"and {len(table.rows) - SHOWN:,} more: --markdown, --csv, --json and --html show all of them")
    console.print()


def _write(place: Path, text: str) -> None:
    try:
        place.write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(f"{place} cannot be written: {error}.", hint="Name a file in another folder.") from error
    console.print(f"written to {place}: open it in a browser, or hand it in")
