"""Figures of runs, studies, sweeps and the leaderboard. No display is needed; seaborn is imported with the first."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.backprop import WEIGHTS, Trajectory
from harness.events import Epoch, Trial
from harness.journal import Outcome
from harness.spec import Knob
from harness.statistics import Summary

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def _canvas(width: float, height: float, columns: int = 1, rows: int = 1) -> tuple[Any, Figure, Any]:
    """Return seaborn, a new figure and its axes; no global state is used, so any thread may draw."""
    import matplotlib
    import seaborn

    matplotlib.use("Agg", force=False)
    from matplotlib.figure import Figure

    with matplotlib.rc_context(seaborn.axes_style("whitegrid")):
        figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
        return seaborn, figure, figure.subplots(rows, columns)


def learning_curves(epochs: Sequence[Epoch], title: str, target: float | None) -> Figure:
    """Draw loss and accuracy (in percent) against the epoch, for training and test.

    Args:
        epochs: the scored epochs.
        target: accuracy to mark, as a fraction of 1, or None.
    """
    seaborn, figure, (left, right) = _canvas(10, 4, columns=2)
    number = [epoch.number for epoch in epochs]
    for kind, label in (("train", "train"), ("held_out", "test")):
        losses = [getattr(epoch, f"{kind}_loss") for epoch in epochs]
        accuracies = [100 * getattr(epoch, f"{kind}_accuracy") for epoch in epochs]
        seaborn.lineplot(x=number, y=losses, ax=left, label=label, marker="o", markersize=4)
        seaborn.lineplot(x=number, y=accuracies, ax=right, label=label, marker="o", markersize=4)
    left.set(xlabel="epoch", ylabel="cross-entropy", yscale="log", title="loss")
    right.set(xlabel="epoch", ylabel="accuracy (%)", title="accuracy")
    later = [100 * (epoch.held_out_accuracy or 0.0) for epoch in epochs[len(epochs) // 4 :]]
    right.set_ylim(bottom=max(0.0, min(later) - 0.5), top=100)
    if target is not None:
        right.axhline(100 * target, color="0.4", linestyle="--", linewidth=1)
        right.annotate(f"target {100 * target:g} %", (number[0], 100 * target), fontsize=8, color="0.3", va="bottom")
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(_escape_dollar(title))
    return figure


def confusion_matrix(counts: np.ndarray, title: str) -> Figure:
    """Draw (10, 10) counts, true class by row and predicted class by column; only errors are coloured."""
    seaborn, figure, axes = _canvas(6.4, 5.6)
    mistakes = np.where(np.eye(len(counts), dtype=bool), 0, counts)
    seaborn.heatmap(mistakes, annot=counts, fmt="d", cmap="Reds", cbar=False, square=True, linewidths=0.5, ax=axes)
    axes.set(xlabel="predicted class", ylabel="true class", title=_escape_dollar(title))
    return figure


def hardest_images(outcome: Outcome) -> Figure:
    """Draw up to 25 images with the most confident wrong predictions: both classes, confidence, test-set position."""
    _, figure, _ = _canvas(8, 8.6)
    figure.clear()
    cells = figure.subplots(5, 5).flat
    for index, axes in enumerate(cells):
        axes.axis("off")
        if index < len(outcome.images):
            axes.imshow(outcome.images[index], cmap="gray_r", vmin=0, vmax=255)
            position = outcome.hardest[index]
            wrong = f"{outcome.labels[position]}, not {outcome.answers[position]}"
            axes.set_title(f"{wrong} ({100 * outcome.confidence[index]:.0f} %)\n#{position}", fontsize=9)
    figure.suptitle("Most confident errors: the true class, not the predicted one (its confidence)")
    return figure


_STATE_COLOURS = {
    "complete": "tab:blue",
    "pruned": "tab:orange",
    "infeasible": "0.6",
    "diverged": "tab:red",
    "failed": "tab:purple",
}


def study(trials: Sequence[Trial], importances: Mapping[str, float], title: str) -> dict[str, Figure]:
    """Draw a study: its history, the epochs its trials took and, where they can be estimated, effects of settings."""
    figures = {"history": _history(trials, title), "epochs": _epochs_spent(trials, title)}
    complete = [trial for trial in trials if trial.state == "complete"]
    if any(trial.settings for trial in complete):
        figures["slices"] = _slices(complete, title)
    if importances:
        figures["importances"] = _importances(importances, title)
    top = sorted(importances, key=lambda name: -importances[name])[:2]
    both = [trial for trial in complete if all(name in trial.settings for name in top)]
    if len(top) == 2 and both:  # the names of Optuna's parameters may differ from those of the settings
        figures["contour"] = _contour(both, top[0], top[1], title)
    return figures


def _history(trials: Sequence[Trial], title: str) -> Figure:
    seaborn, figure, axes = _canvas(9, 4)
    trained = [trial for trial in trials if trial.value is not None]
    if trained:
        seaborn.scatterplot(
            x=[trial.number for trial in trained],
            y=[100 * (trial.value or 0) for trial in trained],
            hue=[trial.state for trial in trained],
            palette=_STATE_COLOURS,
            ax=axes,
        )
        complete = [trial for trial in trained if trial.state == "complete"]
        best = np.maximum.accumulate([100 * (trial.value or 0) for trial in complete])
        at = [trial.number for trial in complete]
        axes.step(at, best, where="post", color="0.3", linewidth=1, label="best so far")
        axes.legend(fontsize="small")
    axes.set(xlabel="trial", ylabel="validation accuracy (%)", title=_escape_dollar(title))
    return figure


def _epochs_spent(trials: Sequence[Trial], title: str) -> Figure:
    _, figure, axes = _canvas(9, 3)
    axes.bar(
        [trial.number for trial in trials],
        [0.0 if trial.same_as is not None else len(trial.epochs) for trial in trials],
        color=[_STATE_COLOURS[trial.state] for trial in trials],
    )
    for state, colour in _STATE_COLOURS.items():
        if any(trial.state == state for trial in trials):
            axes.bar([0], [0], color=colour, label=state)
    axes.legend(fontsize="small")
    axes.set(xlabel="trial", ylabel="epochs trained", title=f"{_escape_dollar(title)}: what each trial cost")
    return figure


def _importances(importances: Mapping[str, float], title: str) -> Figure:
    seaborn, figure, axes = _canvas(7, 1.2 + 0.4 * len(importances))
    names = sorted(importances, key=lambda name: -importances[name])
    seaborn.barplot(x=[importances[name] for name in names], y=names, color="tab:blue", ax=axes)
    axes.set(xlabel="share of the score's variation", title=f"{_escape_dollar(title)}: which settings matter")
    return figure


def _slices(complete: Sequence[Trial], title: str) -> Figure:
    names = list(dict.fromkeys(name for trial in complete for name in trial.settings))
    seaborn, figure, panels = _canvas(3.2 * len(names), 3.4, columns=max(len(names), 2))
    for axes in panels[len(names) :]:
        axes.axis("off")
    for axes, name in zip(panels, names, strict=False):
        having = [trial for trial in complete if name in trial.settings]  # not every trial needs to have it
        values = [trial.settings[name] for trial in having]
        seaborn.scatterplot(x=_axis(values), y=[100 * (trial.value or 0) for trial in having], ax=axes)
        axes.set(xlabel=name, ylabel="validation accuracy (%)" if axes is panels[0] else "", xscale=_scale(values))
    figure.suptitle(_escape_dollar(title))
    return figure


def _contour(complete: Sequence[Trial], across: str, up: str, title: str) -> Figure:
    _, figure, axes = _canvas(6.4, 5)
    x, y = ([trial.settings[name] for trial in complete] for name in (across, up))
    scores = [100 * (trial.value or 0) for trial in complete]
    shades = {"cmap": "viridis", "vmin": min(scores), "vmax": max(scores)}
    axes.set(xlabel=across, ylabel=up, xscale=_scale(x), yscale=_scale(y), title=_escape_dollar(title))
    axes.minorticks_off()
    if all(_is_number(value) for value in (*x, *y)) and len(set(x)) > 2 and len(set(y)) > 2:
        from matplotlib.tri import Triangulation

        seen = [np.log(values) if _scale(values) == "log" else values for values in (x, y)]  # triangulated as drawn
        with contextlib.suppress(RuntimeError):  # all points are on one line
            axes.tricontourf(x, y, Triangulation(*seen).triangles, scores, levels=12, alpha=0.6, **shades)
    points = axes.scatter(_axis(x), _axis(y), c=scores, edgecolor="0.2", clip_on=False, zorder=3, **shades)
    figure.colorbar(points, ax=axes, label="validation accuracy (%)")
    return figure


def _axis(values: Sequence[Knob]) -> list[Knob]:
    return [value if _is_number(value) else str(value) for value in values]


def _is_number(value: Knob) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _scale(values: Sequence[Knob]) -> str:
    """Return the scale of an axis: logarithmic where positive values span a factor of more than 20."""
    numbers = [float(value) for value in values if _is_number(value)]
    spans = len(numbers) == len(values) and min(numbers) > 0 and max(numbers) > 20 * min(numbers)
    return "log" if spans else "linear"


def sweep_losses(trajectories: Sequence[Trajectory], title: str) -> Figure:
    """Draw the total loss of every learning rate against the step, on a linear and on a logarithmic axis."""
    seaborn, figure, (left, right) = _canvas(11, 4.4, columns=2)
    frame = _steps(trajectories, ["E_total"])
    for axes in (left, right):
        seaborn.lineplot(frame, x="step", y="E_total", ax=axes, legend=axes is left, **_LINES)
        axes.set(xlabel="step", ylabel="total loss")
    left.set(title="linear")
    right.set(title="logarithmic", yscale="log")
    _legend_outside(figure, left)
    figure.suptitle(_escape_dollar(title))
    return figure


def sweep_weights(trajectories: Sequence[Trajectory], title: str) -> Figure:
    """Draw the eight weights against the step: one panel per weight, one line per learning rate."""
    seaborn, figure, panels = _canvas(12, 5.4, columns=4, rows=2)
    frame = _steps(trajectories, WEIGHTS)
    for axes, weight in zip(panels.flat, WEIGHTS, strict=True):
        seaborn.lineplot(frame, x="step", y=weight, ax=axes, legend=axes is panels.flat[0], **_LINES)
        axes.set(title=weight, xlabel="step", ylabel="")
    _legend_outside(figure, panels.flat[0])
    figure.suptitle(_escape_dollar(title))
    return figure


def _legend_outside(figure: Figure, axes: Any) -> None:
    """Move a panel's legend to the right of all panels, in enough columns to fit."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize="small", ncols=1 + len(labels) // 16)
    axes.get_legend().remove()


_LINES: dict[str, Any] = {
    "hue": "learning rate",
    "palette": "viridis",
    "style": "state",
    "dashes": {"stable": "", "unstable": (4, 2), "saturated": (1, 1)},
    "estimator": None,
    "errorbar": None,
}


def _steps(trajectories: Sequence[Trajectory], columns: Sequence[str]) -> pd.DataFrame:
    """Return one row per rate and step: learning rate (as text), state, step, and `columns`."""
    import pandas

    rows = [
        {"learning rate": trajectory.rate, "state": trajectory.state, "step": step, **{c: row[c] for c in columns}}
        for trajectory in trajectories
        for step, row in enumerate(trajectory.rows)
    ]
    return pandas.DataFrame(rows)


# --- the leaderboard ------------------------------------------------------------------------------------


def sizes_and_errors(
    names: Sequence[str],
    parameters: Sequence[int],
    scores: Sequence[Summary],
    front: Sequence[str],
    target: float | None,
) -> Figure:
    """Draw the error in percent, with its interval on this test set, against parameters, and the Pareto front."""
    _, figure, axes = _canvas(8, 4.6)
    for name, size, score in zip(names, parameters, scores, strict=True):
        colour = "tab:blue" if name in front else "tab:orange"
        reach = _reach(score)
        axes.errorbar(
            size, 100 * (1 - score.mean), yerr=reach and reach[::-1], fmt="o", color=colour, capsize=3
        )  # an error is 1 - accuracy, so the ends are swapped
        axes.annotate(
            _escape_dollar(name), (size, 100 * (1 - score.mean)), (6, 5), textcoords="offset points", fontsize=8
        )
    ends = [(parameters[names.index(name)], 100 * (1 - scores[names.index(name)].mean)) for name in front]
    if ends:
        axes.step(*zip(*ends, strict=True), where="post", color="tab:blue", linewidth=1, label="Pareto front")
    _mark(axes.axhline, target, lambda accuracy: 100 * (1 - accuracy))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")
    axes.margins(x=0.15)
    axes.set(xlabel="parameters", ylabel="test error after the last epoch (%),\n95 % interval on this test set")
    return figure


def forest(names: Sequence[str], scores: Sequence[Summary], target: float | None) -> Figure:
    """Draw mean scores with their 95 % intervals on this test set, the first row on top."""
    _, figure, axes = _canvas(8, 1.1 + 0.35 * len(names))
    for place, score in enumerate(scores):
        reach = _reach(score)
        axes.errorbar(100 * score.mean, place, xerr=reach, fmt="o" if reach else "x", color="tab:blue", capsize=3)
    _mark(axes.axvline, target, lambda accuracy: 100 * accuracy)
    axes.set_yticks(range(len(names)), [_escape_dollar(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set(xlabel="test accuracy after the last epoch (%): mean over seeds, 95 % interval on this test set")
    return figure


def bands(curves: Mapping[str, Sequence[Sequence[float]]], target: float | None) -> Figure:
    """Draw test accuracy against the epoch: the mean over seeds, and a band from the lowest to the highest.

    Args:
        curves: by name, one list of accuracies (fractions of 1) per seed.
        target: accuracy to mark, as a fraction of 1, or None.
    """
    seaborn, figure, axes = _canvas(8, 4.6)
    for name, seeds in curves.items():
        points = [(epoch, 100 * value) for seed in seeds for epoch, value in enumerate(seed, 1)]
        epochs, values = zip(*points, strict=True)
        seaborn.lineplot(x=epochs, y=values, errorbar=("pi", 100), label=_escape_dollar(name), ax=axes)
    _mark(axes.axhline, target, lambda accuracy: 100 * accuracy)
    later = [100 * value for seeds in curves.values() for seed in seeds for value in seed[len(seed) // 4 :]]
    axes.set_ylim(bottom=min(later) - 0.1, top=min(max(later) + 0.1, 100))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize="small")
    axes.set(xlabel="epoch", ylabel="test accuracy (%)")
    return figure


def _reach(score: Summary) -> list[list[float]] | None:
    """Return the distances from the mean to both ends of its interval, in percentage points, cut at 0 and 100 %."""
    if score.low is None or score.high is None:
        return None
    return [[100 * (score.mean - max(score.low, 0))], [100 * (min(score.high, 1) - score.mean)]]


def _escape_dollar(text: str) -> str:
    """Escape dollar signs, which would start a formula."""
    return text.replace("$", r"\$")


def _mark(line: Callable[..., Any], target: float | None, scale: Callable[[float], float]) -> None:
    if target is not None:
        line(scale(target), color="0.5", linestyle="--", linewidth=1, label=f"target {100 * target:g} %")
