"""The board as tables of text, which the terminal, Markdown and the HTML page print."""

from __future__ import annotations

import shlex
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from harness.leaderboard.compare import LEADERS, Pair
from harness.leaderboard.rank import Board, Leader, leaders_by_size
from harness.leaderboard.row import Row
from harness.sentences import p_text
from harness.spec import BUDGET
from harness.statistics import FEWEST, LOOK_LEVEL, LOOKS

_PICKED = "picked on the test set: never ranks"


Item = TypeVar("Item")


@dataclass(frozen=True)
class Column(Generic[Item]):
    """One column of a table.

    Attributes:
        key: its name in CSV and JSON.
        heading: its name in tables.
        value: returns a row's value.
        text: returns that value as printed.
    """

    key: str
    heading: str
    value: Callable[[Item], Any]
    text: Callable[[Item], str]
    is_number: bool = True


@dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes:
        note: what the numbers mean; may be empty.
        sort: the sort key of each cell.
        right: headings of the columns that hold numbers and are right-aligned.
    """

    title: str
    note: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    sort: Sequence[Sequence[Any]]
    right: Sequence[str] = ()


def percent(value: float | None, digits: int = 3) -> str:
    """Return a fraction of 1 in percent, or an empty text for None."""
    return "" if value is None else f"{100 * value:.{digits}f}"


def interval_text(row: Row) -> str:
    """Return the interval of a row's mean in percent, or why it has none."""
    low, high = row.score.low, row.score.high
    if low is None or high is None:
        return "" if row.n == 1 else "equal scores"
    return f"{100 * max(low, 0):.2f} to {100 * min(high, 1):.2f}"


def _targets(row: Row) -> str:
    missed = [target.name for target in row.targets if not target.met]
    return f"missed: {', '.join(missed)}" if missed else f"all {len(row.targets)} met"


def _reached(row: Row) -> str:
    found = row.epochs_to_target
    if not found:
        return "not reached"
    return f"{statistics.median(found):g} ({len(found)} of {row.n} seed{'' if row.n == 1 else 's'})"


def _epochs(row: Row) -> str:
    first, last = min(row.best_epochs), max(row.best_epochs)
    return f"{percent(row.best)} (epoch {first})" if first == last else f"{percent(row.best)} ({first} to {last})"


def _seconds(row: Row) -> str:
    return f"{row.seconds:,.1f}" if row.seconds < 100 else f"{row.seconds:,.0f}"


def _trials(row: Row) -> str:
    return "not known" if row.trials is None else str(row.trials)


def _imported(row: Row) -> str:
    return f"{row.imported} of {row.n}" if row.imported else ""


def _met(row: Row) -> dict[str, bool]:
    return {target.name: target.met for target in row.targets}


def _part(name: str) -> Column[Row]:
    return Column(
        name.replace(" ", "_"), name, lambda row: row.uses[name], lambda row: "yes" if row.uses[name] else "no"
    )


def _rank(row: Row) -> str:
    said = [str(row.rank)] if row.rank else ["provisional"] * row.is_provisional
    return ", ".join([*said, *([] if row.is_full else [f"{row.epochs} of {row.full_epochs} epochs"])])


def _certified(row: Row) -> str:
    """Return at which looks the target was met, and at which not, with the bound there."""
    held = " and ".join(map(str, row.certified_at))
    missed = [
        f"not at {count} ({percent(bound)})" for count, bound in row.looks.items() if count not in row.certified_at
    ]
    return ", ".join([*([f"99.4 % at {held} seeds"] if held else []), *missed])


def _enough(leader: Leader) -> str:
    count = leader.row.n
    return str(count) if count >= LOOKS[0] else f"{count} of {LOOKS[0]}"


_LABEL: Column[Row] = Column("label", "network", lambda row: row.label, lambda row: row.label, is_number=False)
_PARAMETERS: Column[Row] = Column(
    "parameters", "parameters", lambda row: row.parameters, lambda row: f"{row.parameters:,}"
)
_ACCURACY: Column[Row] = Column(
    "accuracy", "accuracy (%)", lambda row: row.score.mean, lambda row: percent(row.score.mean)
)
_CLASS: Column[Row] = Column(
    "size", "class", lambda row: row.size, lambda row: f"up to {row.size:,}" if row.size else ""
)

THIS_SET, NEW_IMAGES = "this test set", "new images"
"""What a number is about."""

RANKING: tuple[Column[Row], ...] = (
    Column("rank", "rank", lambda row: row.rank, _rank, is_number=False),
    Column("network", "network", lambda row: row.name, lambda row: row.name, is_number=False),
    _PARAMETERS,
    _ACCURACY,
    Column("n", "seeds", lambda row: row.n, lambda row: str(row.n)),
    Column(
        "interval",
        f"95 % interval, {THIS_SET}",
        lambda row: [row.score.low, row.score.high],
        interval_text,
        is_number=False,
    ),
    Column("lower_bound", f"at least, {THIS_SET}", lambda row: row.lower_bound, lambda row: percent(row.lower_bound)),
    Column(
        "bound_on_new_images",
        f"at least, {NEW_IMAGES}",
        lambda row: row.bound_on_new_images,
        lambda row: percent(row.bound_on_new_images),
    ),
    Column("targets", "targets", _met, _targets, is_number=False),
    Column("certified", "certified", lambda row: bool(row.certified_at), _certified, is_number=False),
)

HONESTY: tuple[Column[Row], ...] = (
    _LABEL,
    Column("last", "last epoch (%)", lambda row: row.score.mean, lambda row: percent(row.score.mean)),
    Column("std", "std", lambda row: row.score.std, lambda row: percent(row.score.std)),
    Column("best", "best epoch (%)", lambda row: row.best, _epochs),
    Column("gap", "gap", lambda row: row.gap, lambda row: percent(row.gap)),
    Column("trials", "trials", lambda row: row.trials, _trials),
    Column("epochs_to_target", "epochs to 99.4 %", lambda row: row.epochs_to_target, _reached),
    Column("seconds", "seconds", lambda row: row.seconds, _seconds),
    Column("device", "device", lambda row: row.devices, lambda row: "; ".join(row.devices), is_number=False),
    Column("imported", "imported", lambda row: row.imported, _imported),
)

PARTS: tuple[Column[Row], ...] = (
    _LABEL,
    _CLASS,
    Column("multiply_adds", "multiply-adds", lambda row: row.multiply_adds, lambda row: f"{row.multiply_adds:,}"),
    *map(_part, ("batch norm", "dropout", "fully connected", "global average pooling")),
)


def _of_leader(column: Column[Row]) -> Column[Leader]:
    """Return a column that shows a fact of a leader's row."""
    return Column(
        column.key,
        column.heading,
        lambda leader: column.value(leader.row),
        lambda leader: column.text(leader.row),
        column.is_number,
    )


CLASSES: tuple[Column[Leader], ...] = (
    *map(_of_leader, (_CLASS, _LABEL, _PARAMETERS, _ACCURACY)),
    Column("bound", f"at least, {THIS_SET}", lambda leader: leader.bound, lambda leader: percent(leader.bound)),
    Column("rows", "best of", lambda leader: leader.rows, lambda leader: str(leader.rows)),
    Column("n", "seeds", lambda leader: leader.row.n, _enough),
)


def tables(board: Board) -> list[Table]:
    """Return the tables of the board: ranking, comparisons, best epochs and costs, parts, and size classes."""
    found = [make_table("Ranking", _ranking_note(board), RANKING, board.rows)]
    if board.asked:
        found.append(asked_table(board, board.asked))
    if board.pairs:
        found.append(leaders_table(board.pairs))
    found.append(
        make_table(
            "Last epoch, best epoch, and what it took",
            f"The best epoch is {_PICKED}; the gap is what picking it would have added. Trials were spent by studies "
            "on the settings of a row. Std is that of the seeds' scores on this test set. Seconds are those of a run.",
            HONESTY,
            board.rows,
        )
    )
    found.append(make_table("What each is made of", "", PARTS, board.rows))
    if leaders := leaders_by_size(board.rows):
        note = (
            "The number to beat: the mean over seeds is at least this on this test set, with 95 % confidence, allowing "
            "for its row being the best of the ranked rows of its class. Where its own seeds spread less than those of "
            f"all rows do, their spread is taken. With fewer than {LOOKS[0]} seeds it is provisional."
        )
        found.append(make_table("The first of each class by size", note, CLASSES, [*leaders.values()]))
    return found


def asked_table(board: Board, pair: Pair) -> Table:
    """Return the comparison of the requested pair, with a note on how to plan one instead."""
    adjusted = (
        "No other pair could have been asked for."
        if pair.among == 1
        else f"The p-value and the verdict allow for all {pair.among:,} pairs of ranked rows that could have been "
        "asked for."
    )
    note = (
        f"{_COMPARED} {adjusted}"
        f"{_unasked(board, pair)} The other way is a plan, written down before training, with new seeds: "
        f"python -m harness compare {shlex.quote(pair.a.label)} {shlex.quote(pair.b.label)} --seeds {LOOKS[0]} "
        f"--dataset {board.dataset}. It has a p-value of its own, but for what had been scored by then: so plan before "
        "you score a network."
    )
    return _pair_table("The pair asked for", note, [pair])


def _unasked(board: Board, asked: Pair) -> str:
    """Return a sentence on the same pair in the leaders' table, if it is there with another adjustment."""
    both = {asked.a.id, asked.b.id}
    found = next((pair for pair in board.pairs if {pair.a.id, pair.b.id} == both), None)
    if found is None or found.among == asked.among:
        return ""
    return (
        f" The board compares these two unasked, with the first {LEADERS} ranked rows: among those {found.among} pairs "
        f"p is {p_text(found.p)}."
    )


def leaders_table(pairs: Sequence[Pair]) -> Table:
    """Return the comparisons of the leaders, one pair a row."""
    note = (
        f"{_COMPARED} The p-values, the verdicts, and about how many seeds each would settle it, allow for "
        f"{len(pairs)} pair{'' if len(pairs) == 1 else 's'} being compared: those of the first {LEADERS} ranked rows. "
        "They do not allow for looking again after every seed: decide on the number of seeds beforehand."
    )
    return _pair_table("Who is better", note, pairs)


_COMPARED = (
    "Differences in points of accuracy, on new images: other seeds and other images like these would give others. An "
    "interval is that of its pair alone."
)


def _pair_table(title: str, note: str, pairs: Sequence[Pair]) -> Table:
    headings = (
        *("network", "against", "difference"),
        *(f"95 % interval, {NEW_IMAGES}", "p, adjusted", "verdict", "to settle it"),
    )
    rows, keys = [], []
    for pair in pairs:
        found, names = pair.comparison, (pair.a.label, pair.b.label)
        difference = f"{100 * found.difference:+.3f}"
        rows.append((*names, difference, _between(pair), p_text(pair.p), pair.verdict, _more(pair)))
        keys.append((*names, found.difference, found.low, pair.p, pair.verdict, found.seeds))
    return Table(title, note, headings, rows, keys)


def _between(pair: Pair) -> str:
    low, high = pair.comparison.low, pair.comparison.high
    return "" if low is None or high is None else f"{100 * low:+.3f} to {100 * high:+.3f}"


def _more(pair: Pair) -> str:
    if pair.verdict != "cannot tell yet":
        return ""
    if pair.mcnemar is not None:
        p = p_text(pair.mcnemar)
        return (
            f"of these two trained networks and no others: McNemar p {p}; of any others: {FEWEST} seeds each at least"
        )
    if pair.a.is_provisional or pair.b.is_provisional:
        return f"{FEWEST} seeds each at least"
    seeds = pair.comparison.seeds
    return "too few test images for any" if seeds is None else f"about {seeds} seeds each"


def _ranking_note(board: Board) -> str:
    said = (
        f"Mean test accuracy on {board.dataset} after the last epoch, over seeds; protocol {BUDGET.protocol}: at most "
        f"{BUDGET.parameters:,} parameters, at most {BUDGET.epochs} epochs. Rows of fewer than {FEWEST} seeds "
        "(provisional), or of another number of epochs than their file's, have no rank. Two questions: where the mean "
        f"of all seeds lies on {THIS_SET} (the interval, and the first of the one-sided 95 % bounds), and on "
        f"{NEW_IMAGES} like these (the second bound)."
    )
    if board.rows[0].is_benchmark:
        first, second = LOOKS
        return (
            f"{said} Certified, on {THIS_SET}: the mean is at least 99.40 %, looked at twice and no more, with seeds 0 "
            f"to {first - 1} and with seeds 0 to {second - 1}, each at a one-sided level of {LOOK_LEVEL:g}: about 5 % "
            "at most of the networks that do not hold it are certified, where seeds spread roughly normally."
        )
    return f"{said} {board.dataset} is not the benchmark: there is no accuracy to reach."


def make_table(title: str, note: str, columns: Sequence[Column[Item]], rows: Sequence[Item]) -> Table:
    """Return `rows` as a table of `columns`."""
    return Table(
        title,
        note,
        headings=[column.heading for column in columns],
        rows=[[column.text(row) for column in columns] for row in rows],
        sort=[[_sort_key(column.value(row)) for column in columns] for row in rows],
        right=[column.heading for column in columns if column.is_number],
    )


def _sort_key(value: Any) -> Any:
    """Return the sort key of a cell: the first value of a list, the number of true values of a dict, else itself."""
    if isinstance(value, list):
        return value[0] if value else None
    if isinstance(value, dict):
        return sum(map(bool, value.values()))
    return value


def left_out(board: Board) -> Iterator[str]:
    """Yield a line for each reason why runs do not count, with the first three of its runs."""
    reasons = Counter(entry.reason for entry in board.left_out)
    for reason, count in reasons.most_common():
        named = [entry.run_id for entry in board.left_out if entry.reason == reason]
        more = f" and {count - 3} more" if count > 3 else ""
        yield f"{count} left out: {reason}: {', '.join(named[:3])}{more}"
    for other in board.elsewhere:
        yield f"runs on {other} have a board of their own: --dataset {other}"


def commands(board: Board) -> Iterator[str]:
    """Yield the commands that train each row's runs again."""
    for row in board.rows:
        yield f"# {row.label}"
        yield from row.commands
