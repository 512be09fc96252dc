"""What a person reads about a run: its name, its verdict in a line, its page in Markdown."""

from __future__ import annotations

import reprlib
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import get_args

from harness.backprop import Problem, Trajectory, fastest_stable
from harness.evaluation import Target, verdict
from harness.journal import Record
from harness.spec import BUDGET, Knob, StudyRecord, Trial, TrialState
from harness.statistics import FEWEST, Comparison, Summary, judge

EXPERIMENT_NOTE = """\
The score of a run is `test/final_accuracy`: the test set after the last epoch. `test/best_accuracy` is picked on the
test set and never ranks. To compare runs, tick them and press *Compare*; the column chooser adds settings and metrics.
"""

STUDY_NOTE = """\
One run a study, and under it one run a trial. The score of a trial is `validation/accuracy` after its last epoch, on
training images that it did not train on: a study never loads the test set. What it finds is confirmed on the test set,
in the dataset's own experiment.
"""

SWEEP_NOTE = """\
A 2-2-2 sigmoid network trained by hand-derived gradients at several learning rates: one run a sweep, with the figures
and the derivation, and under it one run a learning rate with every quantity at every step.
"""


def title(record: Record) -> str:
    """Return the architecture's name and those knobs that are not at their default."""
    job = record.job
    changed = {name: value for name, value in job["knobs"].items() if value != job["default_knobs"][name]}
    return " ".join([job["name"], *short(changed)])


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
    return f"{spread(summary)}.\n\n" + table(("seed", "accuracy"), rows)


def spread(summary: Summary) -> str:
    """Return mean test accuracy, n, standard deviation and interval in one line, in percent."""
    line = f"mean test accuracy after the last epoch {100 * summary.mean:.3f} %, n = {summary.n}"
    if summary.std is None:
        return line
    if summary.low is None or summary.high is None:
        return f"{line}, all of one score: that tells no interval"
    # Student's t knows nothing of the ends of the scale; no accuracy lies beyond them.
    interval = f"{100 * max(summary.low, 0):.2f} to {100 * min(summary.high, 1):.2f} %"
    return f"{line}, standard deviation {100 * summary.std:.3f}, 95 % interval of the mean on this test set {interval}"


def sweep_markdown(problem: Problem, trajectories: Sequence[Trajectory]) -> str:
    """Return the page of a learning-rate sweep: the result, and the eight derivatives explained."""
    rows = [(trajectory.rate, f"{trajectory.final_loss:.9f}", sweep_state(trajectory)) for trajectory in trajectories]
    best = fastest_stable(trajectories)
    return "\n\n".join(
        [
            f"Inputs {problem.inputs}, targets {problem.targets}, first weights {problem.weights}.",
            f"Fastest stable rate (lowest loss at the last step): **{best.rate}**." if best else "No rate is stable.",
            table(("learning rate", f"loss after {len(trajectories[0].rows) - 1} steps", "state"), rows),
            _DERIVATION,
        ]
    )


def sweep_state(trajectory: Trajectory) -> str:
    """Say in words whether a learning rate is stable, and what happens if not."""
    if trajectory.first_rise is not None:
        return f"unstable: the loss rises at step {trajectory.first_rise}"
    if trajectory.is_saturated:
        last = trajectory.rows[-1]
        return f"saturated: outputs {last['a_o1']:.3g} and {last['a_o2']:.3g}, learning has all but stopped"
    return "stable"


def counts(trials: Sequence[Trial]) -> str:
    """Return how many trials ended in each state, such as ``31 complete, 12 pruned, 7 infeasible``."""
    found = Counter(trial.state for trial in trials)
    return ", ".join(f"{found[state]} {state}" for state in get_args(TrialState) if found[state]) or "no trial"


def settings(trial: Trial) -> str:
    """Return a trial's settings as the command line takes them: ``--set lr=0.1 --set width=12``."""
    return " ".join(f"--set {name}={value_text(value)}" for name, value in trial.settings.items())


def short_settings(trial: Trial) -> str:
    """Return a trial's settings for a table: ``lr=0.1 width=12``."""
    return " ".join(short(trial.settings))


def short(settings: Mapping[str, Knob]) -> list[str]:
    """Return settings for a table: ``lr=0.1``, ``width=12``."""
    return [f"{name}={_short(value)}" for name, value in settings.items()]


def value_text(value: Knob) -> str:
    """Return a setting as the command line takes it."""
    return str(value).lower() if isinstance(value, bool) else shlex.quote(str(value))


def study_line(record: StudyRecord) -> str:
    """Return the state of a study in a few words."""
    return f"{counts(record.trials)} of {record.wanted} wanted"


def study_markdown(record: StudyRecord) -> str:
    """Return a study's page: the best trials, the counts, what its choice is worth, how it was confirmed."""
    complete = sorted((trial for trial in record.trials if trial.state == "complete"), key=lambda t: -(t.value or 0))
    names = list(record.trials[0].settings) if record.trials else []
    rows = [
        [
            str(trial.number),
            f"{100 * (trial.value or 0):.2f} %",
            f"{trial.parameters:,}",
            *(_short(trial.settings.get(name, "")) for name in names),
        ]
        for trial in complete[:10]
    ]
    parts = [f"**{record.search['study']}** on {record.search['dataset']}: {study_line(record)}."]
    if rows:
        parts.append("### The best trials\n" + table(("trial", "validation accuracy", "parameters", *names), rows))
    if record.confirmation:
        parts.append("### Confirmed on the test set\n" + confirmation_line(record.confirmation))
    return "\n\n".join(parts)


def confirmation_line(found: Mapping[str, float]) -> str:
    """Say how a study's winner did against the default recipe, by the board's own comparison."""
    means = [("winner", found["winner"]), ("default recipe", found["default"])]
    compared = Comparison(found["difference"], found.get("low95"), found.get("high95"), found.get("p"), None)
    line = comparison_line(means, int(found["n"]), compared)
    looks = found.get("looks", 1.0)
    if looks == 1:
        return line
    before = "once" if looks == 2 else f"{looks - 1:.0f} times"
    return f"{line} (confirmed {before} before, with other numbers of seeds: p times {2 ** (looks - 1):.0f})"


def comparison_line(means: Sequence[tuple[str, float]], seeds: int, found: Comparison) -> str:
    """Say how the first of two networks, by name and mean accuracy, did against the second, with `seeds` each."""
    shown = ", ".join(f"{name} {100 * mean:.3f} %" for name, mean in means)
    count = "1 seed" if seeds == 1 else f"{seeds} seeds"
    line = f"{shown}, n = {count} each: difference {100 * found.difference:+.3f} points"
    if found.low is None or found.high is None:
        return f"{line}; a verdict takes {FEWEST} seeds each"
    line = f"{line}, by itself 95 % interval {100 * found.low:+.3f} to {100 * found.high:+.3f}"
    if found.p is None:  # confirmed before studies had the board's comparison
        return f"{line} on this test set, by the spread of the seeds' differences alone"
    said = f"{line} on new images, p {p_text(found.p)}: {judge(found.difference, found.p, seeds)}"
    return said if seeds >= FEWEST else f"{said}; a verdict takes {FEWEST} seeds each"


def p_text(p: float | None) -> str:
    """Return a p-value as it is printed; nothing where there is none."""
    return "" if p is None else "below 0.001" if p < 0.001 else f"{p:.3f}"


def _short(value: Knob) -> str:
    return f"{value:.4g}" if isinstance(value, float) else reprlib.repr(value).strip("'")


_DERIVATION = """\
### The eight derivatives

The network, with s(x) = 1 / (1 + exp(-x)), whose derivative is s'(x) = s(x) (1 - s(x)):

    h1 = w1 i1 + w2 i2    a_h1 = s(h1)    o1 = w5 a_h1 + w6 a_h2    a_o1 = s(o1)    E1 = (t1 - a_o1)² / 2
    h2 = w3 i1 + w4 i2    a_h2 = s(h2)    o2 = w7 a_h1 + w8 a_h2    a_o2 = s(o2)    E2 = (t2 - a_o2)² / 2

E_total = E1 + E2. A weight into an output touches one error alone, so the chain rule has three links:

    dE/dw5 = dE1/da_o1 · da_o1/do1 · do1/dw5 = (a_o1 - t1) · a_o1 (1 - a_o1) · a_h1
    dE/dw6 =                                   (a_o1 - t1) · a_o1 (1 - a_o1) · a_h2
    dE/dw7 =                                   (a_o2 - t2) · a_o2 (1 - a_o2) · a_h1
    dE/dw8 =                                   (a_o2 - t2) · a_o2 (1 - a_o2) · a_h2

A weight into a hidden unit touches both errors, because the unit feeds both outputs. What comes back adds up:

    dE/da_h1 = (a_o1 - t1) · a_o1 (1 - a_o1) · w5 + (a_o2 - t2) · a_o2 (1 - a_o2) · w7
    dE/da_h2 = (a_o1 - t1) · a_o1 (1 - a_o1) · w6 + (a_o2 - t2) · a_o2 (1 - a_o2) · w8

    dE/dw1 = dE/da_h1 · a_h1 (1 - a_h1) · i1        dE/dw3 = dE/da_h2 · a_h2 (1 - a_h2) · i1
    dE/dw2 = dE/da_h1 · a_h1 (1 - a_h1) · i2        dE/dw4 = dE/da_h2 · a_h2 (1 - a_h2) · i2

Every step subtracts the gradient, scaled by the learning rate: w ← w - lr · dE/dw. The derivative points uphill.
At the exercise's six rates a higher one lowers the loss faster. Far above them the first step overshoots to where the
sigmoids are flat (saturated), or the loss rises (unstable).
"""


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
        table(("target", "reached", "limit", "verdict"), targets),
        "### Accuracy by class (%)",
        table([str(digit) for digit in range(10)], [[f"{100 * part:.2f}" for part in record.ended["class_accuracy"]]]),
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
    return table(("epoch", "train loss", "test loss", "train accuracy (%)", "test accuracy (%)", "lr"), rows)


def _layers(record: Record) -> str:
    layers = record.started["anatomy"]["layers"]
    rows = [(row["name"], row["kind"], row["output"], f"{row['parameters']:,}") for row in layers]
    return table(("layer", "kind", "output shape", "parameters"), rows)


def _summary_of_parts(record: Record) -> str:
    anatomy = record.started["anatomy"]
    used = ", ".join(f"{part}: {'yes' if on else 'no'}" for part, on in anatomy["uses"].items())
    return (
        f"{record.started['parameters']:,} parameters, {anatomy['multiply_adds']:,} multiply-adds an image, "
        f"receptive field {anatomy['receptive_field']} pixels. {used}."
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> str:
    """Return a Markdown table; columns named in `right` hold numbers."""
    gap = "\N{NO-BREAK SPACE}" * 3  # the UI leaves no room between columns
    rule = ["--:" if head in right else "---" for head in header]
    lines = [[head + gap for head in header], rule, *([_cell(text) for text in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: str) -> str:
    """Nothing in a cell is markup, or ends it."""
    return text.replace("|", "\\|").replace("<", "&lt;")
