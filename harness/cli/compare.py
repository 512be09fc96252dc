"""Compare two networks by a plan that is written down before either is trained for it.

A and B are architecture files, or rows of the board by name, id or rank. Both are trained from the same new seeds, from
which neither was trained with its settings before, and compared once, on new images. Plan before the networks are
scored: a network that was picked by its score may have been lucky with the images, and the p-value is adjusted for
that. The same command again resumes where it stopped, or shows a finished comparison.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace

from harness import data, leaderboard, plugins, runs
from harness.cli import options, progress, session
from harness.cli.console import console
from harness.errors import UsageError
from harness.journal import all_journals
from harness.leaderboard import plans
from harness.sentences import comparison_line, p_text
from harness.spec import MOST_SEEDS, Job
from harness.statistics import FEWEST, LOOKS, compare
from harness.tracking import Tracker


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="architecture file, or a row of the board by name, id or rank")
    parser.add_argument("b", metavar="B", help="what it is compared with")
    parser.add_argument(
        "--seeds", type=int, default=LOOKS[0], metavar="N", help=f"new seeds for each of the two (default: {LOOKS[0]})"
    )
    options.add_dataset(parser)
    options.add_device(parser)
    options.add_jobs(parser)
    options.add_author(parser)
    options.add_hang_timeout(parser)


def main(args: argparse.Namespace) -> int:
    if not FEWEST <= args.seeds <= MOST_SEEDS:
        raise UsageError(
            f"--seeds {args.seeds} is out of range.",
            allowed=f"Allowed: {FEWEST} to {MOST_SEEDS:,}; fewer seeds than {FEWEST} give no verdict.",
        )
    author = runs.choose_author(args.author)
    device = session.choose_device(args.device)
    options.refuse_jobs(args.jobs, device)
    dataset = data.load(session.choose_dataset(args.dataset))
    networks = [_network(name, dataset, device) for name in (args.a, args.b)]
    if len({leaderboard.identity(job) for _, job in networks}) == 1:
        raise UsageError("Both are the same network with the same settings.", hint="Name two different ones.")
    return session.recorded(lambda tracker: _compare(networks, args.seeds, args.jobs, author, tracker))


mark_interrupted = session.mark_interrupted


def _network(name: str, dataset: data.Dataset, device: str) -> tuple[str, Job]:
    """Return the label of the network that the user named, and a job of it with a placeholder seed."""
    if not name.endswith(".py"):
        return _row(name, dataset.name, device)
    architecture = plugins.load(name)
    settings = plugins.apply_settings(architecture, {})
    return architecture.name, runs.jobs(architecture, *settings, dataset, range(1), device)[0]


def _row(name: str, dataset: str, device: str) -> tuple[str, Job]:
    try:
        row = leaderboard.rank(all_journals(), dataset).find(name)
    except UsageError as error:
        by_file = f"Or name its file, such as architectures/{name}.py: that needs no run of it."
        raise UsageError(error.message, allowed=error.allowed, hint=f"{error.hint} {by_file}") from error
    journal = row.runs[0].journal
    return row.label, replace(
        row.first.job, source=journal.source, submission=journal.submission, seed=0, device=device, plain=False
    )


def _compare(networks: Sequence[tuple[str, Job]], seeds: int, at_once: int, author: str, tracker: Tracker) -> None:
    session.mark_dead_runs(tracker)
    (first, a), (second, b) = networks
    plan = plans.write_down(a, b, seeds, all_journals())
    written = time.strftime("%Y-%m-%d %H:%M", time.localtime(plan.written / 1000))
    console.rule(f"{first} against {second}", align="left")
    console.print(
        f"plan {plan.id}, written down {written}: seeds {plan.first} to {plan.seeds[-1]} of each on {a.dataset}, from "
        "which neither was trained before, then one comparison on new images"
    )
    if plan.among > 1:
        console.print(
            f"p will be multiplied by {plan.among}: that many pairs could have been chosen by the scores known so far, "
            "and new seeds meet the same images; for two networks without a score it would not be"
        )
    if plan.earlier:
        plural = "" if plan.earlier == 1 else "s"
        console.print(f"p will be multiplied by {2**plan.earlier}: {plan.earlier} earlier plan{plural} of these two")
    jobs = [replace(job, seed=seed) for _, job in networks for seed in plan.seeds]
    for of_one in (jobs[: plan.count], jobs[plan.count :]):
        progress.train_all(of_one, tracker, at_once, author=author)
    right = leaderboard.correct_predictions(all_journals(), jobs)
    both = right[: plan.count], right[plan.count :]
    found = compare(*both)
    assert found.p is not None
    adjusted = replace(found, p=plan.adjust(found.p))
    means = [(name, float(part.mean())) for (name, _), part in zip(networks, both, strict=True)]
    console.print(f"\n{comparison_line(means, plan.count, adjusted)}", style="bold")
    if adjusted.p != found.p:
        console.print(f"the interval is that of this pair alone; its p without the factors above is {p_text(found.p)}")
