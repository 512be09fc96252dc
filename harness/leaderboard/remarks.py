"""What to know of the rows besides their numbers, as sentences under the tables: who trained them, and what is amiss.

A remark is made by a function of one row; `_REMARKS` lists these functions in the order in which a reader meets them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from harness.leaderboard.rank import Board
from harness.leaderboard.row import Row, stretches


def remarks(board: Board) -> list[str]:
    """Return a line for each row of which there is something to say."""
    said = ((row.label, remarks_on(row)) for row in board.rows)
    return [f"{label}: {'; '.join(parts)}" for label, parts in said if parts]


def remarks_on(row: Row) -> list[str]:
    """Return what there is to say of a row."""
    return [remark for make in _REMARKS for remark in make(row)]


def _authors(row: Row) -> Iterator[str]:
    """Yield the authors; each with the seeds where they are not all of the row's."""
    authors = row.authors
    if authors:
        whole = all(seeds == row.seeds for seeds in authors.values())
        yield "by " + ", ".join(
            author if whole else f"{author} ({seeds_text(seeds)})" for author, seeds in authors.items()
        )


def _conflicts(row: Row) -> Iterator[str]:
    yield from (conflict.text for conflict in row.conflicts)


def _missing(row: Row) -> Iterator[str]:
    if row.missing:
        yield f"seeds 0 to {row.seeds[-1]:,} without {_spans(row.missing)}"


def _withheld(row: Row) -> Iterator[str]:
    for count, lacking in row.withheld.items():
        yield f"no certificate at {count} seeds without {seeds_text(lacking)}"


def seeds_text(seeds: Sequence[int]) -> str:
    """Return ascending seeds as text: ``seeds 0 to 4, 7``."""
    return f"seed{'' if len(seeds) == 1 else 's'} {_spans(stretches(seeds))}"


def _spans(parts: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{first:,}" if count == 1 else f"{first:,} to {first + count - 1:,}" for first, count in parts)


_REMARKS: tuple[Callable[[Row], Iterator[str]], ...] = (_authors, _missing, _conflicts, _withheld)
