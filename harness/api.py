"""The public face for Python users: `harness.run`, `harness.board` and `harness.check`.

What the commands of the same names do, without printing: results come back as objects and pandas frames, and errors are
raised (`harness.errors`). A plug-in's code runs in the calling process, where the commands give it one of its own.

A call changes some state of the process: the random generators of Python, NumPy and torch, logging, and environment
variables that MLflow and torch's compiler read. So seed your own training after it. Calls from several threads wait for
each other, because torch exports one network at a time.
"""

from __future__ import annotations

import itertools
import operator
import reprlib
import threading
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness import audit, data, journal, leaderboard, plugins, runs, tuning
from harness.audit import Ledger, ModelSummary
from harness.errors import TrackerError, UsageError
from harness.journal import Journal, Run, all_journals
from harness.spec import BUDGET, MOST_SEED, MOST_SEEDS, Knob
from harness.tracking import Tracker

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Check", "Run", "board", "check", "run"]

_ONE_AT_A_TIME = threading.RLock()


def run(
    path: str | Path,
    *,
    seeds: int | Iterable[int] = 1,
    dataset: str = "auto",
    settings: Mapping[str, Knob] | None = None,
    device: str = "auto",
    reference: bool = False,
    retrain: bool = False,
    author: str | None = None,
) -> list[Run]:
    """Train the architecture at `path` from each seed, record it, and return the finished runs in the seeds' order.

    Seeds that are finished are not trained again, and interrupted ones are resumed, as by the command. What keeps
    MLflow from following is a warning: the record is complete without it.

    Args:
        seeds: how many, from 0; or which. Each is trained once.
        dataset: ``mnist``, ``digits``, or ``auto``: MNIST where it can be had.
        settings: knobs of the architecture and fields of the recipe, by name.
        device: ``cpu``, ``cuda``, or ``auto``.
        reference: train in float32, one operator after the other.
        retrain: train all of them from the start.
        author: recorded with new runs and shown on the board; by default the variable ``HARNESS_AUTHOR``.

    Raises:
        HarnessError: the file is refused, the data are missing, or a training fails; its subclass says which.
    """
    chosen, author = _chosen(seeds), runs.choose_author(author)
    with _ONE_AT_A_TIME:
        architecture = plugins.load(path)
        knobs, recipe = plugins.apply_settings(architecture, settings or {})
        name, why_not_mnist = data.choose(dataset)
        if why_not_mnist:
            warnings.warn(f"{why_not_mnist} Training on digits instead.", stacklevel=2)
        images, where = data.load(name), runs.choose_device(device)
        jobs = runs.jobs(architecture, knobs, recipe, images, chosen, where, plain=reference)
        plan = runs.plan_training(jobs, retrain)
        ids = {seed: finished.run_id for seed, finished in plan.finished.items()}
        tracker = Tracker(warn=lambda said: warnings.warn(said, stacklevel=2))
        try:
            for dead in journal.mark_dead_runs({}):
                tracker.enqueue(dead)
            for job in plan.missing:
                for event in runs.record(job, tracker, plan.group, plan.unfinished.get(job.seed), author=author):
                    if isinstance(event, runs.Started):
                        ids[job.seed] = event.run_id
        finally:
            _close(tracker)
        return [Run.of(Journal(journal.journal_folder() / ids[seed])) for seed in chosen]


def _chosen(seeds: int | Iterable[int]) -> list[int]:
    """Return the seeds to train, each once."""
    try:
        listed = seeds if isinstance(seeds, Iterable) else range(operator.index(seeds))
        chosen = [*dict.fromkeys(map(operator.index, itertools.islice(listed, MOST_SEEDS + 1)))]
    except TypeError:
        chosen = []
    if 0 < len(chosen) <= MOST_SEEDS and min(chosen) >= 0 and max(chosen) <= MOST_SEED:
        return chosen
    raise UsageError(
        f"seeds={reprlib.repr(seeds)} cannot be trained.",
        allowed=f"Allowed: a number of seeds, or integers from 0 to {MOST_SEED:,}; at most {MOST_SEEDS:,} seeds.",
    )


def _close(tracker: Tracker) -> None:
    try:
        tracker.close()
    except TrackerError as error:
        warnings.warn(" ".join(error.lines), stacklevel=3)


def board(dataset: str = "auto") -> pd.DataFrame:
    """Rank the finished runs of ``mlruns/``: a row a network with its settings, the columns of ``leaderboard --csv``.

    Args:
        dataset: which board; ``auto`` for MNIST if it has a run.

    Raises:
        UsageError: there is no finished run of it.
        DataError: the log of a study is damaged.
    """
    import pandas

    ranked = leaderboard.rank(all_journals(), dataset, [*tuning.records()])
    return pandas.DataFrame(leaderboard.facts(ranked))


@dataclass(frozen=True)
class Check:
    """A network that passed the audit within the budget.

    Attributes:
        counted: every stored number, line by line.
        model: its layers, the parts it uses, its receptive field and multiply-adds.
    """

    counted: Ledger
    model: ModelSummary

    @property
    def parameters(self) -> int:
        """The counted numbers: what the budget limits."""
        return self.counted.parameters

    @property
    def ledger(self) -> pd.DataFrame:
        """A row a stored tensor: layer, name, kind, shape, numbers, and whether it counts."""
        import pandas

        return pandas.DataFrame([asdict(entry) for entry in self.counted.entries])

    @property
    def layers(self) -> pd.DataFrame:
        """A row a layer: name, kind, output shape, own parameters."""
        import pandas

        return pandas.DataFrame([asdict(layer) for layer in self.model.layers])


def check(path: str | Path, settings: Mapping[str, Knob] | None = None) -> Check:
    """Audit the architecture at `path` and count what its network stores, without training.

    Args:
        settings: knobs of the architecture and fields of the recipe, by name.

    Raises:
        Refusal: the file breaks the contract, its network the audit or the budget; its subclass says which.
    """
    with _ONE_AT_A_TIME:
        architecture = plugins.load(path)
        knobs, recipe = plugins.apply_settings(architecture, settings or {})
        found = runs.inspect(architecture, knobs)
    audit.enforce(found.audit.ledger, recipe, BUDGET)
    audit.refuse_uneven_batches(found.audit.train.module(), recipe.batch_size, str(path))
    return Check(found.audit.ledger, found.model)
