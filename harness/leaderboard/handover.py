"""What an export says of the seeds that it does not hold."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Sequence

from harness.errors import printable
from harness.journal import MOST_STATE
from harness.leaderboard.gaps import Gap
from harness.leaderboard.rank import Board
from harness.leaderboard.row import Row, row_key
from harness.leaderboard.sample import LeftOut, says_what_was_begun


def held_back(board: Board) -> dict[str, list[tuple[int, str]]]:
    """Return, by run id, the seeds of its row that were begun and do not count, each with what became of them.

    An imported run that came without such a list leaves without one.
    """
    left_out: dict[str, list[LeftOut]] = defaultdict(list)
    for entry in board.left_out:
        if entry.job and type(entry.job.seed) is int:
            with contextlib.suppress(TypeError, ValueError):  # a damaged job belongs to no row
                left_out[row_key(entry.job)].append(entry)
    found: dict[str, list[tuple[int, str]]] = {}
    for row in board.rows:
        seeds = _of_row(row, left_out[row.key])
        found |= {run.run_id: seeds for run in row.runs if not run.is_imported or says_what_was_begun(run)}
    return found


def _of_row(row: Row, left_out: Sequence[LeftOut]) -> list[tuple[int, str]]:
    counted = {*row.seeds}
    jobs = ((entry.job, entry.reason) for entry in left_out)
    unfinished = {job.seed: reason for job, reason in jobs if job and job.seed not in counted}
    disputed = {conflict.seed: "in conflict" for conflict in row.conflicts if conflict.seed not in counted}
    states = {**unfinished, **disputed, **{gap.seed: _state(gap) for gap in row.gaps}}
    return [(seed, printable(state)[:MOST_STATE]) for seed, state in sorted(states.items())]


def lost(board: Board) -> list[tuple[str, int, str]]:
    """Return title and seed of what was begun of networks that have no row, and what became of it."""
    return [(printable(gap.title)[:MOST_STATE], gap.seed, printable(_state(gap))[:MOST_STATE]) for gap in board.lost]


def _state(gap: Gap) -> str:
    return gap.note if gap.place else f"{gap.state}: {gap.note}"
