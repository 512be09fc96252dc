"""The board as JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from harness.leaderboard.compare import Pair
from harness.leaderboard.rank import Board, leaders_by_size
from harness.leaderboard.remarks import about, notes, remarks_on
from harness.leaderboard.tables import CLASSES, HONESTY, PARTS, RANKING, commands, left_out, tables
from harness.markdown import markdown_list, markdown_table, nested_list
from harness.spec import BUDGET

FACTS = tuple({column.key: column for column in (*RANKING, *HONESTY, *PARTS)}.values())


def facts(board: Board) -> list[dict[str, Any]]:
    """Return all facts about each row, by key; accuracies are fractions of 1."""
    return [
        {
            "id": row.id,
            "seeds": row.seeds,
            "missing": [f"{first}-{first + count - 1}" for first, count in row.missing],
            "looks": row.looks,
            "names": row.names,
            "authors": [*row.authors],
            "isolation": sorted({run.facts.job.isolation for run in row.runs}),
            **{column.key: column.value(row) for column in FACTS},
            "remarks": remarks_on(row),
        }
        for row in board.rows
    ]


def to_json(board: Board) -> str:
    """Return rows, comparisons and left-out runs as JSON."""
    dropped = [{"run": entry.run_id, "reason": entry.reason} for entry in board.left_out]
    whole = {
        "dataset": board.dataset,
        "protocol": BUDGET.protocol,
        "rows": facts(board),
        "classes": [
            {column.key: column.value(leader) for column in CLASSES} for leader in leaders_by_size(board.rows).values()
        ],
        "asked": board.asked and _pair(board.asked),
        "pairs": [*map(_pair, board.pairs)],
        "left_out": dropped,
        "notes": notes(board),
    }
    return json.dumps(whole, indent=1)


def _pair(pair: Pair) -> dict[str, Any]:
    return {
        "network": pair.a.label,
        "against": pair.b.label,
        "difference": pair.comparison.difference,
        "interval": [pair.comparison.low, pair.comparison.high],
        "p_holm": pair.p,
        "among": pair.among,
        "verdict": pair.verdict,
        "seeds_to_settle": pair.comparison.seeds,
        "mcnemar": pair.mcnemar,
    }


def to_csv(board: Board) -> str:
    """Return all facts about each row as CSV; lists are joined by semicolons, those of `_FREE` texts by line breaks."""
    text = io.StringIO()
    rows = facts(board)
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: _flat(value, "\n" if name in _FREE else ";") for name, value in row.items()} for row in rows
    )
    return text.getvalue()


_FREE = ("names", "authors", "remarks")
"""Lists of texts that may hold a semicolon. None holds a line break."""


def _flat(value: Any, between: str) -> Any:
    """Return a CSV cell: lists joined; of a dict the names whose value is True, and NAME=VALUE for other values."""
    if isinstance(value, dict):
        held = ((name, part) for name, part in value.items() if part is not False)
        return between.join(str(name) if part is True else f"{name}={part}" for name, part in held)
    return between.join("" if part is None else str(part) for part in value) if isinstance(value, list) else value


def to_markdown(board: Board) -> str:
    """Return the board as a Markdown document."""
    parts = [f"# Leaderboard: {board.dataset}"]
    for table in tables(board):
        parts.append(f"## {table.title}")
        if table.note:
            parts.append(table.note)
        parts.append(markdown_table(table.headings, table.rows, table.right))
    if said := about(board):
        parts.append("## About the rows\n\n" + nested_list(said))
    parts.append("## To get these runs again\n\n```\n" + "\n".join(commands(board)) + "\n```")
    if lines := [*left_out(board)]:
        parts.append("## What does not count\n\n" + markdown_list(lines))
    return "\n\n".join(parts) + "\n"
