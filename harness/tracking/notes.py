"""A run as text: its verdict in one line, and its page in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from harness.audit import ModelSummary
from harness.events import Epoch
from harness.journal import FinishedRun, Record, RunStart
from harness.markdown import markdown_table
from harness.sentences import spread_line
from harness.spec import BUDGET
from harness.statistics import Summary
from harness.training import Target, verdict

EXPERIMENT_NOTE = """\
The score of a run is `test/final_accuracy`: the test set after the last epoch. `test/best_accuracy` is picked on the
test set and never ranks. To compare runs, tick them and press *Compare*; the column chooser adds settings and metrics.
"""


def verdict_line(record: Record) -> str:
    """Return the verdict in one line, such as ``all 3 targets met`` or ``missed: accuracy``."""
    if record.state != "finished":
        return record.state
    targets = _targets(FinishedRun.of(record))
    missed = [target.name for target in targets if not target.met]
    return f"missed: {', '.join(missed)}" if missed else f"all {len(targets)} targets met"


def markdown(record: Record) -> str:
    """Return a run's page: verdict, learning curve, layer table."""
    start = record.start
    parts = [f"**{start.name}** on {start.job.dataset}, {start.device}, protocol {start.job.protocol}."]
    if record.state == "finished":
        parts += _outcome(FinishedRun.of(record))
    elif record.ended:
        parts.append(f"### {record.state}: {record.reason}")
    if operators := start.environment.unrepeatable:
        parts.append(unrepeatable_line(operators))
    if record.epochs:
        parts.append("### Curve\n" + _curve(record.typed_epochs()))
    return "\n\n".join([*parts, "### Layers\n" + _layers(start.model), _summary_of_parts(start)])


def unrepeatable_line(operators: Sequence[str]) -> str:
    """Return a sentence on operators that may give different bits each time."""
    return (
        f"The same seed does not give the same bits on this device: {', '.join(operators)} may round differently "
        "each time. A run that is resumed may end with a slightly different score."
    )


def group_markdown(scores: dict[int, float], summary: Summary) -> str:
    """Return the page of a group of seeds: mean, spread, interval, and the score of each seed."""
    rows = [(str(seed), f"{100 * scores[seed]:.2f} %") for seed in sorted(scores)]
    return f"{spread_line(summary)}.\n\n" + markdown_table(("seed", "accuracy"), rows)


def _targets(run: FinishedRun) -> list[Target]:
    start = run.start
    return verdict(start.parameters, start.job.recipe.epochs, run.result.accuracy, BUDGET, start.is_benchmark)


def _outcome(run: FinishedRun) -> list[str]:
    result = run.result
    targets = [(t.name, t.reached, t.limit, "met" if t.met else "**missed**") for t in _targets(run)]
    by_class = [f"{100 * part:.2f}" for part in result.class_accuracy]
    return [
        f"### Score: {100 * result.accuracy:.2f} % after the last epoch",
        f"Best epoch {result.best_epoch}: {100 * result.best_accuracy:.2f} % (picked on the test set; never ranks).",
        markdown_table(("target", "reached", "limit", "verdict"), targets),
        "### Accuracy by class (%)",
        markdown_table([str(digit) for digit in range(10)], [by_class]),
    ]


def _curve(epochs: Sequence[Epoch]) -> str:
    rows = [
        (
            str(epoch.number),
            f"{epoch.train_loss:.4f}",
            f"{epoch.held_out_loss:.4f}",
            f"{100 * epoch.train_accuracy:.2f}",
            f"{100 * (epoch.held_out_accuracy or 0.0):.2f}",
            f"{epoch.lr:.3g}",
        )
        for epoch in epochs
    ]
    return markdown_table(("epoch", "train loss", "test loss", "train accuracy (%)", "test accuracy (%)", "lr"), rows)


def _layers(model: ModelSummary) -> str:
    rows = [(layer.name, layer.kind, layer.output, f"{layer.parameters:,}") for layer in model.layers]
    return markdown_table(("layer", "kind", "output shape", "parameters"), rows)


def _summary_of_parts(start: RunStart) -> str:
    model = start.model
    used = ", ".join(f"{part}: {'yes' if on else 'no'}" for part, on in model.uses.items())
    return (
        f"{start.parameters:,} parameters, {model.multiply_adds:,} multiply-adds an image, "
        f"receptive field {model.receptive_field} pixels. {used}."
    )
