"""A board as people read it: tables for the terminal and for Markdown, CSV, JSON, and one self-contained page."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import shlex
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from harness import page, plots, plugins
from harness.evaluation import confusion
from harness.leaderboard import LEADERS, Board, Leader, Pair, Row, leaders_by_size, pareto, wrong_for_all
from harness.spec import BUDGET
from harness.statistics import FEWEST, LOOK_LEVEL, LOOKS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DRAWN = 12
"""Rows that a figure shows at most."""

_PICKED = "picked on the test set: never ranks"


Item = TypeVar("Item")


@dataclass(frozen=True)
class Column(Generic[Item]):
    """One fact about a row: its key in CSV and JSON, its heading, its value and how that is written."""

    key: str
    heading: str
    value: Callable[[Item], Any]
    text: Callable[[Item], str]
    is_number: bool = True


@dataclass(frozen=True)
class Table:
    """A titled table as text, with what each cell sorts by; `right` are the headings of numbers."""

    title: str
    note: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    sort: Sequence[Sequence[Any]]
    right: Sequence[str] = ()


def _percent(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{100 * value:.{digits}f}"


def _interval(row: Row) -> str:
    low, high = row.score.low, row.score.high
    if low is None or high is None:
        return "" if row.n == 1 else "equal scores"
    return f"{100 * max(low, 0):.2f} to {100 * min(high, 1):.2f}"


def _between_ends(row: Row) -> str:
    return "provisional" if row.is_provisional else _interval(row)


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
    return f"{_percent(row.best)} (epoch {first})" if first == last else f"{_percent(row.best)} ({first} to {last})"


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
    """Say at which looks the target was held, and at which not, with the bound there."""
    held = " and ".join(map(str, row.certified_at))
    missed = [
        f"not at {count} ({_percent(bound)})" for count, bound in row.looks.items() if count not in row.certified_at
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
    "accuracy", "accuracy (%)", lambda row: row.score.mean, lambda row: _percent(row.score.mean)
)
_CLASS: Column[Row] = Column(
    "size", "class", lambda row: row.size, lambda row: f"up to {row.size:,}" if row.size else ""
)

THIS_SET, NEW_IMAGES = "this test set", "new images"
"""What a number speaks of."""

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
        _interval,
        is_number=False,
    ),
    Column("lower_bound", f"at least, {THIS_SET}", lambda row: row.lower_bound, lambda row: _percent(row.lower_bound)),
    Column(
        "bound_on_new_images",
        f"at least, {NEW_IMAGES}",
        lambda row: row.bound_on_new_images,
        lambda row: _percent(row.bound_on_new_images),
    ),
    Column("targets", "targets", _met, _targets, is_number=False),
    Column("certified", "certified", lambda row: bool(row.certified_at), _certified, is_number=False),
)

HONESTY: tuple[Column[Row], ...] = (
    _LABEL,
    Column("last", "last epoch (%)", lambda row: row.score.mean, lambda row: _percent(row.score.mean)),
    Column("std", "std", lambda row: row.score.std, lambda row: _percent(row.score.std)),
    Column("best", "best epoch (%)", lambda row: row.best, _epochs),
    Column("gap", "gap", lambda row: row.gap, lambda row: _percent(row.gap)),
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
    """Return a column about a leader's row."""
    return Column(
        column.key,
        column.heading,
        lambda leader: column.value(leader.row),
        lambda leader: column.text(leader.row),
        column.is_number,
    )


CLASSES: tuple[Column[Leader], ...] = (
    *map(_of_leader, (_CLASS, _LABEL, _PARAMETERS, _ACCURACY)),
    Column("bound", f"at least, {THIS_SET}", lambda leader: leader.bound, lambda leader: _percent(leader.bound)),
    Column("rows", "best of", lambda leader: leader.rows, lambda leader: str(leader.rows)),
    Column("n", "seeds", lambda leader: leader.row.n, _enough),
)


def tables(board: Board) -> list[Table]:
    """Return the board as tables: the ranking, who is better, what was picked and spent, what each is made of."""
    found = [_table("Ranking", _ranking_note(board), RANKING, board.rows)]
    if board.asked:
        found.append(asked_table(board, board.asked))
    if board.pairs:
        found.append(leaders_table(board.pairs))
    found.append(
        _table(
            "Last epoch, best epoch, and what it took",
            f"The best epoch is {_PICKED}; the gap is what picking it would have added. Trials were spent by studies "
            "on the settings of a row. Std is that of the seeds' scores on this test set. Seconds are those of a run.",
            HONESTY,
            board.rows,
        )
    )
    found.append(_table("What each is made of", "", PARTS, board.rows))
    if leaders := leaders_by_size(board.rows):
        note = (
            "The number to beat: the mean over seeds is at least this on this test set, with 95 % confidence, allowing "
            "for its row being the best of the ranked rows of its class. Where its own seeds spread less than those of "
            f"all rows do, their spread is taken. With fewer than {LOOKS[0]} seeds it is provisional."
        )
        found.append(_table("The first of each class by size", note, CLASSES, [*leaders.values()]))
    return found


def asked_table(board: Board, pair: Pair) -> Table:
    """Return the pair that was asked for as a table, with the way to a p-value of its own."""
    pairs = "the one pair" if pair.among == 1 else f"all {pair.among:,} pairs"
    note = (
        f"{_COMPARED} The p-value and the verdict allow for {pairs} of ranked rows that could have been asked for."
        f"{_unasked(board, pair)} The other way is a plan, written down before training, with new seeds: "
        f"python -m harness compare {shlex.quote(pair.a.label)} {shlex.quote(pair.b.label)} --seeds {LOOKS[0]} "
        f"--dataset {board.dataset}. It has a p-value of its own, but for what had been scored by then: so plan before "
        "you score a network."
    )
    return _pair_table("The pair asked for", note, [pair])


def _unasked(board: Board, asked: Pair) -> str:
    """Say what the board's own table has of a pair, which it compares whatever is asked."""
    both = {asked.a.id, asked.b.id}
    found = next((pair for pair in board.pairs if {pair.a.id, pair.b.id} == both), None)
    if found is None or found.among == asked.among:
        return ""
    return (
        f" The board compares these two unasked, with the first {LEADERS} ranked rows: among those {found.among} pairs "
        f"p is {page.p_text(found.p)}."
    )


def leaders_table(pairs: Sequence[Pair]) -> Table:
    """Return the comparisons of the leaders as a table, a row a pair."""
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
        rows.append((*names, difference, _between(pair), page.p_text(pair.p), pair.verdict, _more(pair)))
        keys.append((*names, found.difference, found.low, pair.p, pair.verdict, found.seeds))
    return Table(title, note, headings, rows, keys)


def _between(pair: Pair) -> str:
    low, high = pair.comparison.low, pair.comparison.high
    return "" if low is None or high is None else f"{100 * low:+.3f} to {100 * high:+.3f}"


def _more(pair: Pair) -> str:
    if pair.verdict != "cannot tell yet":
        return ""
    if pair.mcnemar is not None:
        p = page.p_text(pair.mcnemar)
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


def _table(title: str, note: str, columns: Sequence[Column[Item]], rows: Sequence[Item]) -> Table:
    return Table(
        title,
        note,
        headings=[column.heading for column in columns],
        rows=[[column.text(row) for column in columns] for row in rows],
        sort=[[_sort_key(column.value(row)) for column in columns] for row in rows],
        right=[column.heading for column in columns if column.is_number],
    )


def _sort_key(value: Any) -> Any:
    """Return what a cell sorts by: itself, or the first of several."""
    if isinstance(value, list):
        return value[0] if value else None
    if isinstance(value, dict):
        return sum(map(bool, value.values()))
    return value


def left_out(board: Board) -> Iterator[str]:
    """Yield a line for each reason why runs do not count, with the first few of them."""
    reasons = Counter(entry.reason for entry in board.left_out)
    for reason, count in reasons.most_common():
        named = [entry.run_id for entry in board.left_out if entry.reason == reason]
        more = f" and {count - 3} more" if count > 3 else ""
        yield f"{count} left out: {reason}: {', '.join(named[:3])}{more}"
    for other in board.elsewhere:
        yield f"runs on {other} have a board of their own: --dataset {other}"


# --- for other programs ---------------------------------------------------------------------------------

FACTS = tuple({column.key: column for column in (*RANKING, *HONESTY, *PARTS)}.values())


def facts(board: Board) -> list[dict[str, Any]]:
    """Return every fact about every row, by key; accuracies as fractions of 1."""
    return [
        {"id": row.id, "seeds": row.seeds, "looks": row.looks, **{column.key: column.value(row) for column in FACTS}}
        for row in board.rows
    ]


def to_json(board: Board) -> str:
    """Return rows, comparisons and what is left out as JSON."""
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
    """Return every fact about every row as CSV; a list is joined by semicolons."""
    text = io.StringIO()
    rows = facts(board)
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _flat(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _flat(value: Any) -> Any:
    """Return a list joined; of names with values those that hold, with the values of what is no yes or no."""
    if isinstance(value, dict):
        held = ((name, part) for name, part in value.items() if part is not False)
        return ";".join(str(name) if part is True else f"{name}={part}" for name, part in held)
    return ";".join("" if part is None else str(part) for part in value) if isinstance(value, list) else value


def to_markdown(board: Board) -> str:
    """Return the board as a Markdown document."""
    parts = [f"# Leaderboard: {board.dataset}"]
    for table in tables(board):
        parts.append(f"## {table.title}")
        if table.note:
            parts.append(table.note)
        parts.append(page.table(table.headings, table.rows, table.right))
    parts.append("## To get these runs again\n\n```\n" + "\n".join(_commands(board)) + "\n```")
    if lines := [*left_out(board)]:
        parts.append("## What does not count\n\n" + "\n".join(f"- {line}" for line in lines))
    return "\n\n".join(parts) + "\n"


def _commands(board: Board) -> Iterator[str]:
    for row in board.rows:
        yield f"# {row.label}"
        yield from row.commands


# --- the page -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """A figure on the page: its heading, what it shows in words, and itself as markup."""

    title: str
    said: str
    markup: str


def to_html(board: Board) -> str:
    """Return one self-contained page: tables that sort, figures, a section an architecture. It asks no network.

    Raises:
        DataError: the answers of a run cannot be read.
    """
    import jinja2  # deferred: the other forms do without

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("report.html").render(
        board=board,
        tables=tables(board),
        pictures=[*_pictures(board)],
        errors=_class_errors(board.rows[:DRAWN]),
        sections=[_section(row) for row in _firsts(board.rows)],
        everybody_wrong=_everybody_wrong(board.rows[:LEADERS]),
        left_out=[*left_out(board)],
        all_left_out=board.left_out,
        commands=[*_commands(board)],
    )


def _pictures(board: Board) -> Iterator[Picture]:
    rows = board.rows[:DRAWN]
    names = [row.label for row in rows]
    scores = [replace(row.score, low=None, high=None) if row.is_provisional else row.score for row in rows]
    target = BUDGET.accuracy if rows[0].is_benchmark else None
    front = [row.label for row in pareto(rows)]
    yield _picture(
        "Size against error",
        f"Parameters against test error, with the 95 % interval of the mean on {THIS_SET}. On the Pareto front: "
        f"{', '.join(front) or 'no row, as none has a rank'}.",
        plots.sizes_and_errors(names, [row.parameters for row in rows], scores, front, target),
    )
    yield _picture(
        "Means and intervals",
        f"Mean accuracy over seeds with its 95 % interval on {THIS_SET}. "
        + "; ".join(
            f"{row.label}: {_percent(row.score.mean)} % ({'provisional' if row.is_provisional else _interval(row)})"
            for row in rows
        )
        + ".",
        plots.forest(names, scores, target),
    )
    curves = {
        row.label: [[epoch["held_out_accuracy"] for epoch in run.record.epochs] for run in row.runs]
        for row in rows[:LEADERS]
    }
    yield _picture(
        "Learning curves",
        f"Test accuracy by epoch, mean and range over seeds, of {', '.join(curves)}.",
        plots.bands(curves, target),
    )


def _picture(title: str, said: str, figure: Figure) -> Picture:
    return Picture(title, said, _svg(figure, title))


def _svg(figure: Figure, title: str) -> str:
    """Return a figure as SVG that takes the page's colours, with ids of its own and no date: the same bytes again."""
    import matplotlib

    drawn = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    markup = drawn.getvalue()
    markup = markup[markup.index("<svg") :]
    for colour, ours in _COLOURS.items():
        markup = markup.replace(colour, ours)
    own = hashlib.sha256(title.encode()).hexdigest()[:6]  # ids are the whole page's
    markup = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{own}-", markup)
    return markup.replace("<svg ", '<svg aria-hidden="true" ', 1)


_COLOURS = {"#262626": "currentColor", "#000000": "currentColor", "#cccccc": "var(--line)", "#ffffff": "var(--page)"}
"""seaborn's ink, lines and ground."""


@dataclass(frozen=True)
class Section:
    """What the page says of one file."""

    row: Row
    summary: str
    source: str
    ledger: Table
    curves: Picture
    confusion: Table
    hardest: str


def _firsts(rows: Sequence[Row]) -> list[Row]:
    """Return the first row of each file."""
    found: dict[str, Row] = {}
    for row in rows:
        found.setdefault(row.first.job["sha256"], row)
    return [*found.values()]


def _section(row: Row) -> Section:
    run = row.runs[0]
    target = BUDGET.accuracy if row.is_benchmark else None
    title = page.run_name(run.record)
    return Section(
        row=row,
        summary=plugins.declaration(run.journal.source).summary,
        source=run.journal.source,
        ledger=_ledger(row),
        curves=_picture(f"{title}: learning curves", "", plots.learning_curves(run.record.epochs, title, target)),
        confusion=_confusion(row),
        hardest=_png(plots.hardest_images(run.test)),
    )


def _png(figure: Figure) -> str:
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=80, metadata={"Software": None})
    return base64.b64encode(drawn.getvalue()).decode()


def _ledger(row: Row) -> Table:
    entries = row.first.started["ledger"]
    rows = [(e["layer"], e["name"], e["kind"], f"{e['numbers']:,}", "yes" if e["counted"] else "no") for e in entries]
    return Table("Ledger", "", ("layer", "name", "kind", "numbers", "counted"), rows, rows)


def _confusion(row: Row) -> Table:
    """Counts over all seeds."""
    outcomes = [run.test for run in row.runs]
    counts = sum(confusion(outcome.answers, outcome.labels) for outcome in outcomes)
    rows = [(str(true), *(str(count) for count in line)) for true, line in enumerate(np.asarray(counts).tolist())]
    headings = ("true class", *(str(answer) for answer in range(10)))
    return Table("Answers by true class", f"Summed over {row.n} seeds.", headings, rows, rows)


def _class_errors(rows: Sequence[Row]) -> list[tuple[str, list[float]]]:
    """Return, by row, the mean error of each class in percent."""
    accuracies = {row.label: [run.outcome["class_accuracy"] for run in row.runs] for row in rows}
    return [
        (label, [100 * (1 - statistics.fmean(part)) for part in zip(*seeds, strict=True)])
        for label, seeds in accuracies.items()
    ]


def _everybody_wrong(rows: Sequence[Row]) -> list[tuple[int, int, str]]:
    """Return position, true class and picture (as PNG, where one is kept) of images that every run gets wrong."""
    outcomes = [run.test for row in rows for run in row.runs]
    kept = {
        int(position): image
        for outcome in outcomes
        for position, image in zip(outcome.hardest, outcome.images, strict=True)
    }
    labels = outcomes[0].labels
    return [
        (position, int(labels[position]), _image(kept[position]) if position in kept else "")
        for position in wrong_for_all(rows)
    ]


def _image(pixels: np.ndarray) -> str:
    from PIL import Image

    drawn = io.BytesIO()
    Image.fromarray(255 - pixels).save(drawn, format="png")
    return base64.b64encode(drawn.getvalue()).decode()
