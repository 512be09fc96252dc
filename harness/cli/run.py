"""Train architectures under the budget, on all training images, and score them after the last epoch.

Everything is recorded, first in mlruns/journal/ and from there in MLflow (`python -m harness ui`). Several seeds become
children of one MLflow run with their mean, spread and 95 % interval on this test set. The same command again shows
finished runs and resumes interrupted ones, bit for bit.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from harness import data, plugins, runs
from harness.cli import options, progress, session
from harness.cli.console import console
from harness.errors import UsageError
from harness.spec import MOST_SEED, MOST_SEEDS, Job
from harness.tracking import Tracker

if TYPE_CHECKING:
    from harness.workers import Cluster


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_files(parser, at_least_one=False)
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="first seed (default: 0)")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="train with seeds S, S+1, ... (default: 1)")
    options.add_dataset(parser)
    options.add_set(parser)
    parser.add_argument("--epochs", type=int, metavar="E", help="short for --set epochs=E")
    options.add_device(parser)
    options.add_cluster(parser)
    options.add_hang_timeout(parser)
    options.add_jobs(parser)
    options.add_author(parser)
    parser.add_argument(
        "--reference",
        action="store_true",
        help="train in float32, one operator at a time: slow; faster modes are compared with this one",
    )
    parser.add_argument(
        "--resume", metavar="RUN", help="resume this interrupted run (a folder of mlruns/journal/) and no other"
    )
    parser.add_argument(
        "--retrain", action="store_true", help="train finished and interrupted runs again from the start"
    )
    parser.add_argument("--profile", action="store_true", help="profile the second epoch of the first seed")


def main(args: argparse.Namespace) -> int:
    if args.resume:
        if args.files or args.typed - {"--resume", "--hang-timeout"}:
            raise UsageError("--resume takes file, settings and seed from the run.", hint="Leave everything else out.")
        return session.recorded(lambda tracker: _resume(args.resume, tracker))
    if not args.files:
        raise UsageError("No FILE to train.", hint="Example: python -m harness run architectures/s6_gap.py")
    given = _settings(args)
    author = runs.choose_author(args.author)
    on_cluster = options.uses_cluster(args)
    _refuse_combinations(args, on_cluster)
    if not on_cluster:
        device = session.choose_device(args.device)
        options.refuse_jobs(args.jobs, device)
    name = session.choose_dataset(args.dataset)
    data.load(name)  # fails here rather than after building the network
    (path,) = args.files  # several files run in a process each
    seeds = range(args.seed, args.seed + args.seeds)

    def train(tracker: Tracker, device: str, cluster: Cluster | None = None) -> None:
        session.mark_dead_runs(tracker)
        jobs = _jobs(path, given, name, seeds, device, args.reference)
        progress.train_all(jobs, tracker, args.jobs, args.profile, args.retrain or args.profile, cluster, author)

    if not on_cluster:
        return session.recorded(lambda tracker: train(tracker, device))
    cluster, device, _ = session.connect(
        args.cluster, args.gpu_share, args.hang_timeout, args.device, name, held_out="test"
    )
    with cluster:
        return session.recorded(lambda tracker: train(tracker, device, cluster))


mark_interrupted = session.mark_interrupted


def _refuse_combinations(args: argparse.Namespace, on_cluster: bool) -> None:
    if on_cluster:
        for option in ("reference", "profile"):
            if getattr(args, option):
                raise UsageError(f"--{option} and --cluster cannot go together.", hint=f"Leave --{option} out.")
        if args.jobs != 1:
            raise UsageError(
                "--jobs and --cluster cannot go together.", hint="Leave --jobs out: the cluster has workers."
            )
    elif args.profile and args.jobs > 1:
        raise UsageError(
            "--profile and --jobs cannot go together.",
            allowed="A profile covers one run; it would include the runs that take turns with it.",
            hint="Leave one of them out.",
        )


def _resume(run_id: str, tracker: Tracker) -> None:
    session.mark_dead_runs(tracker)
    job, journal = runs.load_interrupted(run_id)
    console.rule(job.name, align="left")
    progress.resume(job, journal, tracker)


def _settings(args: argparse.Namespace) -> dict[str, str]:
    given = options.settings(args.settings)
    if args.epochs is not None:
        if "epochs" in given:
            raise UsageError("--epochs and --set epochs=... are the same setting.", hint="Give one of them.")
        given["epochs"] = str(args.epochs)
    if not 1 <= args.seeds <= MOST_SEEDS:
        raise UsageError(f"--seeds {args.seeds} is out of range.", allowed=f"Allowed: 1 to {MOST_SEEDS:,}.")
    if not 0 <= args.seed <= MOST_SEED:
        raise UsageError(f"--seed {args.seed} is out of range.", allowed=f"Allowed: 0 to {MOST_SEED:,}.")
    return given


def _jobs(path: str, given: dict[str, str], dataset: str, seeds: range, device: str, plain: bool) -> list[Job]:
    architecture = plugins.load(path)
    knobs, recipe = options.parse_settings(architecture, given)
    console.rule(architecture.name, align="left")
    session.note_isolation()
    console.print(architecture.summary)
    if changed := plugins.changed_settings(knobs, recipe, architecture.knobs, architecture.recipe):
        console.print(f"with {plugins.settings_text(changed)}")
    for name in recipe.idle:
        console.print(f"note: {name} is set, but nothing in this recipe uses it", style="yellow")
    return runs.jobs(architecture, knobs, recipe, data.load(dataset), seeds, device, plain=plain)
