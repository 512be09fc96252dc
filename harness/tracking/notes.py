"""What a person reads about a run: its verdict in a line, its page in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from harness.journal import Record
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
    """Return the verdict in a few words, such as ``all 3 targets met`` or ``missed: accuracy``."""
    if record.state != "finished":
        return record.state
    targets = _targets(record)
    missed = [target.name for target in targets if not target.met]
    return f"missed: {', '.join(missed)}" if missed else f"all {len(targets)} targets met"


def markdown(record: Record) -> str:
    """Return the run's page: verdict, curve, layer table."""
    job = record.job
    parts = [f"**{record.name}** on {job['dataset']}, {record.device}, protocol {job['protocol']}."]
    if record.state == "finished":
        parts += _outcome(record)
    elif record.ended:
        parts.append(f"### {record.state}: {record.ended['reason']}")
    if operators := record.started["environment"].get("unrepeatable"):
        parts.append(unrepeatable_line(operators))
    if record.epochs:
        parts.append("### Curve\n" + _curve(record))
    return "\n\n".join([*parts, "### Layers\n" + _layers(record), _summary_of_parts(record)])


def unrepeatable_line(operators: Sequence[str]) -> str:
    """Say what follows from operators that may give other bits each time."""
    return (
        f"The same seed does not give the same bits on this device: {', '.join(operators)} may compute other last "
        "digits each time. A run that is resumed may end a little otherwise."
    )


def group_markdown(scores: dict[int, float], summary: Summary) -> str:
    """Return the page of several seeds' parent: mean, spread, interval, and the score of each seed."""
    rows = [(str(seed), f"{100 * scores[seed]:.2f} %") for seed in sorted(scores)]
    return f"{spread_line(summary)}.\n\n" + markdown_table(("seed", "accuracy"), rows)


def _targets(record: Record) -> list[Target]:
    assert record.ended
    accuracy, benchmark = record.ended["accuracy"], record.started["is_benchmark"]
    return verdict(record.started["parameters"], record.job["recipe"]["epochs"], accuracy, BUDGET, benchmark)


def _outcome(record: Record) -> list[str]:
    assert record.ended
    targets = [(t.name, t.reached, t.limit, "met" if t.met else "**missed**") for t in _targets(record)]
    best = f"{100 * record.ended['best_accuracy']:.2f} %"
    return [
        f"### Score: {100 * record.ended['accuracy']:.2f} % after the last epoch",
        f"Best epoch {record.ended['best_epoch']}: {best} (picked on the test set; never ranks).",
        markdown_table(("target", "reached", "limit", "verdict"), targets),
        "### Accuracy by class (%)",
        markdown_table(
            [str(digit) for digit in range(10)], [[f"{100 * part:.2f}" for part in record.ended["class_accuracy"]]]
        ),
    ]


def _curve(record: Record) -> str:
    rows = [
        (
            str(epoch["number"]),
            f"{epoch['train_loss']:.4f}",
            f"{epoch['held_out_loss']:.4f}",
            f"{100 * epoch['train_accuracy']:.2f}",
            f"{100 * epoch['held_out_accuracy']:.2f}",
            f"{epoch['lr']:.3g}",
        )
        for epoch in record.epochs
    ]
    return markdown_table(("epoch", "train loss", "test loss", "train accuracy (%)", "test accuracy (%)", "lr"), rows)


def _layers(record: Record) -> str:
    layers = record.started["anatomy"]["layers"]
    rows = [(row["name"], row["kind"], row["output"], f"{row['parameters']:,}") for row in layers]
    return markdown_table(("layer", "kind", "output shape", "parameters"), rows)


def _summary_of_parts(record: Record) -> str:
    anatomy = record.started["anatomy"]
    used = ", ".join(f"{part}: {'yes' if on else 'no'}" for part, on in anatomy["uses"].items())
    return (
        f"{record.started['parameters']:,} parameters, {anatomy['multiply_adds']:,} multiply-adds an image, "
        f"receptive field {anatomy['receptive_field']} pixels. {used}."
    )
