"""Train a row of the board again from its stored graphs, on this machine, and say whether it is what it claims.

ROW is a row's name, id or rank on the board, and RUN the id of a run. Where processor, threads and versions are those
of the claimed runs, a seed of theirs is trained again: losses and predictions must be equal, bit for bit. Elsewhere
other seeds are trained, and a test says whether their scores and the claimed ones can be of one distribution: a high
p-value proves nothing, but a claim that is far too good gets a low one.

No plug-in is executed. The trainings are no runs: they are no further seeds of the row. The result is kept in
mlruns/verifications/, is exported with the row, and stands on the board. After an interruption the same command goes on
with the next seed.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from harness import leaderboard, runs
from harness.cli import options, progress, session
from harness.cli.console import console
from harness.data import NAMES
from harness.errors import DataError, UsageError
from harness.journal import Journal, Run, all_journals, find_journal, journal_folder
from harness.journal.verifications import Verification, keep
from harness.spec import MOST_SEEDS, Job
from harness.statistics import Agreement


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="ROW|RUN", help="a row by name, id or rank, or a folder of mlruns/journal/")
    parser.add_argument(
        "--seeds",
        type=int,
        metavar="K",
        help=f"trainings (default: {runs.FEWEST_EXACT} where bits repeat, else {runs.FEWEST_OTHERS})",
    )
    parser.add_argument("--dataset", default="auto", choices=("auto", *NAMES), help="dataset of the board")
    options.add_device(parser)
    options.add_hang_timeout(parser)
    options.add_author(parser)


def main(args: argparse.Namespace) -> int:
    if args.seeds is not None and not 1 <= args.seeds <= MOST_SEEDS:
        raise UsageError(f"--seeds {args.seeds} is out of range.", allowed=f"Allowed: 1 to {MOST_SEEDS:,}.")
    author = runs.choose_author(args.author)
    plan = runs.plan_verification(_claimed(args.name, args.dataset), args.seeds, session.choose_device(args.device))
    how = "the claimed seeds are repeated" if plan.is_exact else "no claimed run is of a machine like this: other seeds"
    start = plan.claimed[0].facts.start
    console.rule(f"{start.title} on {start.job.dataset}", align="left")
    console.print(f"{how}: {', '.join(str(job.seed) for job in plan.jobs)}")
    if args.seeds and args.seeds > len(plan.jobs):
        console.print(f"not {args.seeds}: no more claimed seeds are of a machine like this", style="yellow")
    trained = [_trained(job, job is plan.jobs[0]) for job in plan.jobs]
    found, test = runs.conclude(plan, trained, author)
    file = keep(found)
    runs.forget_trainings(plan.jobs)
    console.print()
    for line in _said(found, test, plan.claimed):
        console.print(line)
    console.print(f"record: {file}")
    return DataError.exit_code if found.verdict == "contradicted" else 0


def _claimed(name: str, dataset: str) -> Sequence[Run]:
    """Return the runs of a row, or the one run with an id."""
    run_id = name.rstrip("/").rpartition("/")[2]
    if not _RUN_ID.match(run_id) and not Journal(journal_folder() / run_id).events_file.exists():
        return leaderboard.rank(all_journals(), dataset).find(name).runs
    try:
        return [Run.of(find_journal(run_id))]
    except DataError as error:
        raise DataError(f"{run_id} cannot be verified, as it does not count: {error.message}.") from error


_RUN_ID = re.compile(r"\d{8}-\d{6}-")


def _trained(job: Job, introduces: bool) -> runs.Training:
    if known := runs.kept_training(job):
        console.print(f"\nseed {job.seed} was trained before the interruption")
        return known
    training = runs.Training.of(job, *progress.follow(job, runs.train_unrecorded(job), introduces))
    runs.keep_training(job, training)
    return training


def _said(found: Verification, test: Agreement | None, claimed: Sequence[Run]) -> list[str]:
    scores = ", ".join(
        f"seed {seed} {100 * score:.2f} %" for seed, score in zip(found.seeds, found.scores, strict=True)
    )
    said = ", ".join(f"seed {run.seed} {100 * run.accuracy:.2f} %" for run in claimed)
    lines = [f"claimed: {said}", f"trained: {scores}"]
    if found.verdict == "bit for bit":
        return [*lines, "verified bit for bit: the losses of all epochs and all predictions are equal"]
    if test is None:
        return [*lines, "undecided: the bits differ, and a test needs a second seed; add --seeds 3"]
    can = f"a difference of {100 * test.detectable:.2f} points or more would have shown"
    shown = f"difference of the means {100 * test.difference:+.2f} points, p = {test.p:.3f}; {can}"
    if found.verdict == "contradicted":
        return [
            *lines,
            shown,
            "contradicted: scores of one distribution differ so much in 1 of 100 verifications at most",
        ]
    return [
        *lines,
        shown,
        "in agreement: the claimed scores can be of one distribution with these; that proves no training",
    ]
