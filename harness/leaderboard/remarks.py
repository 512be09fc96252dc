"""What to know of the rows besides their numbers, as sentences under the tables: who trained them, and what is amiss.

A remark is made by a function of one row; `_REMARKS` lists these functions in the order in which a reader meets them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from harness.errors import printable
from harness.journal.verifications import Verdict
from harness.leaderboard.gaps import Gap, State
from harness.leaderboard.rank import Board, leaders_by_size
from harness.leaderboard.row import Row, stretches, with_one_text
from harness.leaderboard.sample import Conflict, place_name, says_what_was_begun


def about(board: Board) -> list[tuple[str, list[str]]]:
    """Return what to know besides the tables: rows with their remarks, then notes, which have none."""
    return [*remarks(board), *((note, []) for note in notes(board))]


def remarks(board: Board) -> list[tuple[str, list[str]]]:
    """Return the label and the remarks of each row of which there is something to say."""
    leads = {leader.row.label: size for size, leader in leaders_by_size(board.rows).items()}
    said = ((row.label, [*remarks_on(row), *_unverified(row, leads.get(row.label))]) for row in board.rows)
    return [(label, parts) for label, parts in said if parts]


def notes(board: Board) -> list[str]:
    """Return a line for each thing to know of the board as a whole, such as what a register tells of deleted runs."""
    return [*_disputed(board), *_texts(board), *_register(board), *_lost(board), *_silent(board)]


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
    yield from _conflicts_text(row.conflicts)


def _conflicts_text(conflicts: Sequence[Conflict]) -> Iterator[str]:
    """Yield a text for conflicts that are told in the same words."""
    found: dict[str, list[int]] = defaultdict(list)
    for conflict in conflicts:
        found[conflict.about].append(conflict.seed)
    for about, seeds in found.items():
        yield f"conflict: {seeds_text(sorted(seeds))} {about}"


def _names(row: Row) -> Iterator[str]:
    if others := row.names[1:]:
        yield f"also trained as {', '.join(others)}"


def _missing(row: Row) -> Iterator[str]:
    if row.missing:
        yield min(
            f"seeds 0 to {row.seeds[-1]:,} without {_spans(row.missing)}", f"only {seeds_text(row.seeds)}", key=len
        )


def _unregistered(row: Row) -> Iterator[str]:
    if row.unregistered:
        verb = "is" if len(row.unregistered) == 1 else "are"
        yield f"{seeds_text(row.unregistered)} {verb} not in the register of begun runs"


def _verified(row: Row) -> Iterator[str]:
    """Yield who verified the row, when, with how many seeds, and what came out; equal ones once."""
    seeds: dict[tuple[str, str, str], set[int]] = defaultdict(set)
    for found in row.verifications:
        by = f" by {printable(found.author)}" if found.author else ""
        p = "" if found.p is None else f", p = {found.p:.3f}"
        claims = f"{printable(Path(found.origin).name)} claims: " if found.origin else ""
        seeds[f"{claims}{_VERDICTS[found.verdict]}{by}", found.date, p].update(found.seeds)
    for (verdict, date, more), trained in seeds.items():
        yield f"{verdict} ({date}, {len(trained)} seed{'' if len(trained) == 1 else 's'}{more})"


def _unverified(row: Row, size: int | None) -> Iterator[str]:
    """Yield that the first row of a size class is not verified on this machine."""
    if size and not any(found.is_good for found in row.verifications):
        yield f"not verified, though the first of those up to {size:,}"


def _without_graph(row: Row) -> Iterator[str]:
    if seeds := [run.seed for run in row.runs if not run.facts.job.network]:
        yield f"{seeds_text(seeds)}: no graph is stored with the record"


def _carried(row: Row) -> Iterator[str]:
    """Yield which seeds were carried over, for each older protocol."""
    found: dict[int, list[int]] = defaultdict(list)
    for run in row.runs:
        if carried := run.facts.start.carried:
            found[carried.before].append(run.seed)
    for before, seeds in sorted(found.items()):
        yield f"{seeds_text(seeds)}: carried over from protocol {before}: graph, count and start are equal"


def _isolation(row: Row) -> Iterator[str]:
    """Yield which seeds were trained from a file whose process was not confined in full, for each level."""
    found: dict[str, list[int]] = defaultdict(list)
    for run in row.runs:
        if not run.facts.start.carried and run.facts.job.isolation != "full":
            found[run.facts.job.isolation].append(run.seed)
    for level, seeds in sorted(found.items()):
        yield f"{seeds_text(seeds)}: isolation of the file: {level}"


def _gaps(row: Row) -> Iterator[str]:
    for (state, place), gaps in _by_state(row.gaps).items():
        yield f"{_STATES[state]}{f' with {place}' if place else ''}: {_noted(gaps)}"


def _noted(gaps: Sequence[Gap]) -> str:
    """Return seeds with what is noted of them: ``seeds 4 to 6 (2026-11-27), seed 9 (2026-11-28)``."""
    by_note: dict[str, set[int]] = defaultdict(set)
    for gap in gaps:
        by_note[gap.note].add(gap.seed)
    return ", ".join(f"{seeds_text(sorted(seeds))} ({printable(note)})" for note, seeds in by_note.items())


def _by_state(gaps: Iterable[Gap]) -> dict[tuple[State, str], list[Gap]]:
    found: dict[tuple[State, str], list[Gap]] = defaultdict(list)
    for gap in gaps:
        found[gap.state, gap.place].append(gap)
    return {key: sorted(some, key=lambda gap: gap.seed) for key, some in found.items()}


def _withheld(row: Row) -> Iterator[str]:
    for count, lacking in row.withheld.items():
        yield f"no certificate at {count} seeds without {seeds_text(lacking)}"


def _disputed(board: Board) -> Iterator[str]:
    for row in board.disputed:
        said = "; ".join(_conflicts_text(row.conflicts))
        yield f"{printable(row.title)} is disputed and has no rank: {said}, with: {printable(row.command)}"


def _texts(board: Board) -> Iterator[str]:
    for rows in with_one_text(board.rows):
        yield f"one text, several networks: {', '.join(row.label for row in rows)}"


def _register(board: Board) -> Iterator[str]:
    register = board.register
    file = "mlruns/begun.jsonl"
    if register.broken_at:
        yield (
            f"the register of begun runs ({file}) was changed: line {register.broken_at} does not follow from the one "
            "before it; runs may be missing from it"
        )
    if not register.exists and any(not run.is_imported for row in board.rows for run in row.runs):
        yield f"there is no register of begun runs here ({file}): runs that were deleted cannot be seen"


def _lost(board: Board) -> Iterator[str]:
    for (state, place), gaps in _by_state(board.lost).items():
        titles = dict.fromkeys(gap.title for gap in gaps)
        parts = [f"{printable(title)} {_noted([gap for gap in gaps if gap.title == title])}" for title in titles]
        yield f"{_STATES[state]}{f' with {place}' if place else ''}: {', '.join(parts)}"


def _silent(board: Board) -> Iterator[str]:
    imported = [run for row in board.rows for run in row.runs if run.is_imported]
    for place in sorted({place_name(run) for run in imported if not says_what_was_begun(run)}):
        yield f"{place} does not say which runs were begun where it was made"


def seeds_text(seeds: Sequence[int]) -> str:
    """Return ascending seeds as text: ``seeds 0 to 4, 7``."""
    return f"seed{'' if len(seeds) == 1 else 's'} {_spans(stretches(seeds))}"


def _spans(parts: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{first:,}" if count == 1 else f"{first:,} to {first + count - 1:,}" for first, count in parts)


_STATES: dict[State, str] = {
    "gone": "begun and gone",
    "changed": "finished, and its record changed or damaged since",
    "withdrawn": "withdrawn",
    "held back": "begun there but not handed over",
}

_VERDICTS: dict[Verdict, str] = {
    "bit for bit": "verified bit for bit",
    "agrees": "verified by scores",
    "contradicted": "contradicted",
    "undecided": "trained again, undecided",
}

_REMARKS: tuple[Callable[[Row], Iterator[str]], ...] = (
    _names,
    _authors,
    _verified,
    _missing,
    _conflicts,
    _gaps,
    _unregistered,
    _withheld,
    _without_graph,
    _carried,
    _isolation,
)
