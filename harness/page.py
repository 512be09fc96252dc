"""What a person reads about a run: its name, its verdict in a line, its page in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.evaluation import Target, verdict
from harness.journal import Record
from harness.spec import BUDGET
from harness.statistics import Summary


def title(record: Record) -> str:
    """Return the architecture's name and those knobs that are not at their default."""
    job = record.job
    changed = [f"{name}={value}" for name, value in job["knobs"].items() if value != job["default_knobs"][name]]
    return " ".join([job["name"], *changed])


def run_name(record: Record) -> str:
    """Return what a person looks for: ``s6_gap width=12 seed 0``."""
    return f"{title(record)} seed {record.job['seed']}"


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
    parts = [f"**{run_name(record)}** on {job['dataset']}, {record.device}, protocol {job['protocol']}."]
    if record.state == "finished":
        parts += _outcome(record)
    elif record.ended:
        parts.append(f"### {record.state}: {record.ended['reason']}")
    if record.epochs:
        parts.append("### Curve\n" + _curve(record))
    return "\n\n".join([*parts, "### Layers\n" + _layers(record), _summary_of_parts(record)])


def group_markdown(scores: dict[int, float], summary: Summary) -> str:
    """Return the page of several seeds' parent: mean, spread, interval, and the score of each seed."""
    rows = [(str(seed), f"{100 * scores[seed]:.2f} %") for seed in sorted(scores)]
    return f"{spread(summary)}.\n\n" + _table(("seed", "accuracy"), rows)


def spread(summary: Summary) -> str:
    """Return mean test accuracy, n, standard deviation and interval in one line, in percent."""
    line = f"mean test accuracy after the last epoch {100 * summary.mean:.3f} %, n = {summary.n}"
    if summary.std is None or summary.low is None or summary.high is None:
        return line
    interval = f"{100 * summary.low:.2f} to {100 * summary.high:.2f} %"
    return f"{line}, standard deviation {100 * summary.std:.3f}, 95 % interval of the mean {interval}"


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
        _table(("target", "reached", "limit", "verdict"), targets),
        "### Accuracy by class (%)",
        _table([str(digit) for digit in range(10)], [[f"{100 * part:.2f}" for part in record.ended["class_accuracy"]]]),
    ]


def _curve(record: Record) -> str:
    rows = [
        (
            str(epoch["number"]),
            f"{epoch['train_loss']:.4f}",
            f"{epoch['test_loss']:.4f}",
            f"{100 * epoch['train_accuracy']:.2f}",
            f"{100 * epoch['test_accuracy']:.2f}",
            f"{epoch['lr']:.3g}",
        )
        for epoch in record.epochs
    ]
    return _table(("epoch", "train loss", "test loss", "train accuracy (%)", "test accuracy (%)", "lr"), rows)


def _layers(record: Record) -> str:
    layers = record.started["anatomy"]["layers"]
    rows = [(row["name"], row["kind"], row["output"], f"{row['parameters']:,}") for row in layers]
    return _table(("layer", "kind", "output shape", "parameters"), rows)


def _summary_of_parts(record: Record) -> str:
    anatomy = record.started["anatomy"]
    used = ", ".join(f"{part}: {'yes' if on else 'no'}" for part, on in anatomy["uses"].items())
    return (
        f"{record.started['parameters']:,} parameters, {anatomy['multiply_adds']:,} multiply-adds an image, "
        f"receptive field {anatomy['receptive_field']} pixels. {used}."
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
