"""The board as one self-contained HTML page."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness import plots, plugins
from harness.leaderboard.compare import LEADERS
from harness.leaderboard.rank import Board, pareto, wrong_for_all
from harness.leaderboard.remarks import about, remarks_on
from harness.leaderboard.row import Row
from harness.leaderboard.tables import THIS_SET, Table, commands, interval_text, left_out, percent, tables
from harness.spec import BUDGET
from harness.training import confusion

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DRAWN = 12
"""Most rows that a figure shows."""


@dataclass(frozen=True)
class Picture:
    """A figure on the page: heading, caption in words, and SVG markup."""

    title: str
    caption: str
    markup: str


def to_html(board: Board) -> str:
    """Return one self-contained page: sortable tables, figures, a section for each file. It loads nothing else.

    Raises:
        DataError: the predictions of a run cannot be read.
    """
    import jinja2  # deferred: the other formats do not need it

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("report.html").render(
        board=board,
        tables=tables(board),
        about=about(board),
        pictures=[*_pictures(board)],
        errors=_class_errors(board.rows[:DRAWN]),
        sections=[_section(row) for row in _firsts(board.rows)],
        always_wrong=_always_wrong(board.rows[:LEADERS]),
        left_out=[*left_out(board)],
        all_left_out=board.left_out,
        commands=[*commands(board)],
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
            f"{row.label}: {percent(row.score.mean)} % ({'provisional' if row.is_provisional else interval_text(row)})"
            for row in rows
        )
        + ".",
        plots.forest(names, scores, target),
    )
    curves = {row.label: [run.facts.accuracies for run in row.runs] for row in rows[:LEADERS]}
    yield _picture(
        "Learning curves",
        f"Test accuracy by epoch, mean and range over seeds, of {', '.join(curves)}.",
        plots.bands(curves, target),
    )


def _picture(title: str, caption: str, figure: Figure) -> Picture:
    return Picture(title, caption, _svg(figure, title))


def _svg(figure: Figure, title: str) -> str:
    """Return a figure as SVG in the page's colours, with unique ids and no date, so that the bytes are reproducible."""
    import matplotlib

    drawn = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    markup = drawn.getvalue()
    markup = markup[markup.index("<svg") :]
    for colour, variable in _COLOURS.items():
        markup = markup.replace(colour, variable)
    prefix = hashlib.sha256(title.encode()).hexdigest()[:6]  # ids must be unique on the page
    markup = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", markup)
    return markup.replace("<svg ", '<svg aria-hidden="true" ', 1)


_COLOURS = {"#262626": "currentColor", "#000000": "currentColor", "#cccccc": "var(--line)", "#ffffff": "var(--page)"}
"""seaborn's colours of text, lines and background, and the page's variables."""


@dataclass(frozen=True)
class Section:
    """The section of one file."""

    row: Row
    summary: str
    remarks: Sequence[str]
    source: str
    ledger: Table
    curves: Picture
    confusion: Table
    hardest: str


def _firsts(rows: Sequence[Row]) -> list[Row]:
    """Return the first row of each file."""
    found: dict[str, Row] = {}
    for row in rows:
        found.setdefault(row.first.job.sha256, row)
    return [*found.values()]


def _section(row: Row) -> Section:
    run = row.runs[0]
    target = BUDGET.accuracy if row.is_benchmark else None
    title = run.facts.start.name
    return Section(
        row=row,
        summary=plugins.declaration(run.journal.source).summary,
        remarks=remarks_on(row),
        source=run.journal.source,
        ledger=_ledger(row),
        curves=_picture(f"{title}: learning curves", "", plots.learning_curves(run.facts.epochs, title, target)),
        confusion=_confusion(row),
        hardest=_png(plots.hardest_images(run.test)),
    )


def _png(figure: Figure) -> str:
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=80, metadata={"Software": None})
    return base64.b64encode(drawn.getvalue()).decode()


def _ledger(row: Row) -> Table:
    entries = row.first.start.ledger
    rows = [(e.layer, e.name, e.kind, f"{e.numbers:,}", "yes" if e.counted else "no") for e in entries]
    return Table("Ledger", "", ("layer", "name", "kind", "numbers", "counted"), rows, rows)


def _confusion(row: Row) -> Table:
    """Return the confusion matrix, summed over all seeds."""
    outcomes = [run.test for run in row.runs]
    counts = sum(confusion(outcome.answers, outcome.labels) for outcome in outcomes)
    rows = [(str(true), *(str(count) for count in line)) for true, line in enumerate(np.asarray(counts).tolist())]
    headings = ("true class", *(str(predicted) for predicted in range(10)))
    return Table(
        "Predictions by true class", f"Summed over {row.n} seed{'' if row.n == 1 else 's'}.", headings, rows, rows
    )


def _class_errors(rows: Sequence[Row]) -> list[tuple[str, list[float]]]:
    """Return each row's label and its mean error of each class, in percent."""
    accuracies = {row.label: [run.result.class_accuracy for run in row.runs] for row in rows}
    return [
        (label, [100 * (1 - statistics.fmean(part)) for part in zip(*seeds, strict=True)])
        for label, seeds in accuracies.items()
    ]


def _always_wrong(rows: Sequence[Row]) -> list[tuple[int, int, str]]:
    """Return position, true class and PNG (empty if not stored) of the images that every run gets wrong."""
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
