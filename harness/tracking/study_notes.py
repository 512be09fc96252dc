"""A study as text: its state in one line, and its page in Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import get_args

from harness.events import StudyRecord, Trial, TrialState
from harness.markdown import markdown_table
from harness.plugins import short_value
from harness.sentences import comparison_line
from harness.statistics import Comparison

STUDY_NOTE = """\
One parent run for each study, with one child run for each trial. The score of a trial is `validation/accuracy` after
its last epoch, on training images that it did not train on: a study never loads the test set. The winner is confirmed
on the test set, in the dataset's own experiment.
"""


def counts(trials: Sequence[Trial]) -> str:
    """Return how many trials ended in each state, such as ``31 complete, 12 pruned, 7 infeasible``."""
    found = Counter(trial.state for trial in trials)
    return ", ".join(f"{found[state]} {state}" for state in get_args(TrialState) if found[state]) or "no trial"


def study_line(record: StudyRecord) -> str:
    """Return the state of a study in one line."""
    return f"{counts(record.trials)} of {record.wanted} wanted"


def study_markdown(record: StudyRecord) -> str:
    """Return a study's page: the counts, the best trials, and the confirmation of the winner."""
    complete = sorted((trial for trial in record.trials if trial.state == "complete"), key=lambda t: -(t.value or 0))
    names = list(record.trials[0].settings) if record.trials else []
    rows = [
        [
            str(trial.number),
            f"{100 * (trial.value or 0):.2f} %",
            f"{trial.parameters:,}",
            *(short_value(trial.settings.get(name, "")) for name in names),
        ]
        for trial in complete[:10]
    ]
    parts = [f"**{record.search['study']}** on {record.search['dataset']}: {study_line(record)}."]
    if rows:
        parts.append(
            "### The best trials\n" + markdown_table(("trial", "validation accuracy", "parameters", *names), rows)
        )
    if record.confirmation:
        parts.append("### Confirmed on the test set\n" + confirmation_line(record.confirmation))
    return "\n\n".join(parts)


def confirmation_line(found: Mapping[str, float]) -> str:
    """Return the comparison of a study's winner with the default recipe, by the leaderboard's method, in one line."""
    means = [("winner", found["winner"]), ("default recipe", found["default"])]
    compared = Comparison(found["difference"], found.get("low95"), found.get("high95"), found.get("p"), None)
    line = comparison_line(means, int(found["n"]), compared)
    looks = found.get("looks", 1.0)
    if looks == 1:
        return line
    before = "once" if looks == 2 else f"{looks - 1:.0f} times"
    return f"{line} (confirmed {before} before, with other numbers of seeds: p times {2 ** (looks - 1):.0f})"
