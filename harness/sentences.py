"""Statistics as sentences: means, confidence intervals, differences and p-values, as printed for the user."""

from __future__ import annotations

from collections.abc import Sequence

from harness.statistics import FEWEST, Comparison, Summary, judge


def spread_line(summary: Summary) -> str:
    """Return mean test accuracy, n, standard deviation and interval in one line, in percent."""
    line = f"mean test accuracy after the last epoch {100 * summary.mean:.3f} %, n = {summary.n}"
    if summary.std is None:
        return line
    if summary.low is None or summary.high is None:
        return f"{line}, all scores equal: no interval can be computed"
    # Student's t interval may reach above 100 %; an accuracy cannot.
    interval = f"{100 * max(summary.low, 0):.2f} to {100 * min(summary.high, 1):.2f} %"
    return f"{line}, standard deviation {100 * summary.std:.3f}, 95 % interval of the mean on this test set {interval}"


def comparison_line(means: Sequence[tuple[str, float]], seeds: int, found: Comparison) -> str:
    """Return the comparison of two networks, each given by name and mean accuracy, with `seeds` seeds each."""
    shown = ", ".join(f"{name} {100 * mean:.3f} %" for name, mean in means)
    count = "1 seed" if seeds == 1 else f"{seeds} seeds"
    line = f"{shown}, n = {count} each: difference {100 * found.difference:+.3f} points"
    if found.low is None or found.high is None:
        return f"{line}; a verdict takes {FEWEST} seeds each"
    line = f"{line}, by itself 95 % interval {100 * found.low:+.3f} to {100 * found.high:+.3f}"
    if found.p is None:  # a study confirmed by a version that had no comparison on new images
        return f"{line} on this test set, by the spread of the seeds' differences alone"
    said = f"{line} on new images, p {p_text(found.p)}: {judge(found.difference, found.p, seeds)}"
    return said if seeds >= FEWEST else f"{said}; a verdict takes {FEWEST} seeds each"


def p_text(p: float | None) -> str:
    """Return a p-value as it is printed, or an empty string for None."""
    return "" if p is None else "below 0.001" if p < 0.001 else f"{p:.3f}"
