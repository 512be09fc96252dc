"""A row of the board: a file with one set of knobs and one recipe, and the runs of its seeds."""

from __future__ import annotations

import hashlib
import itertools
import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from harness.journal import FinishedRun, Run
from harness.journal.verifications import Verification
from harness.leaderboard.gaps import Gap
from harness.leaderboard.sample import Conflict
from harness.plugins import run_command, settings_texts
from harness.spec import BUDGET, RECIPE_FIELDS, Job
from harness.statistics import FEWEST, LOOKS, Summary, bound_at_look, bound_on_new_images, lower_bound, summarise
from harness.training import Target, verdict

SIZES = (1_000, 2_000, 5_000, 10_000, 20_000)
"""The size classes, by their largest number of parameters."""


@dataclass(frozen=True)
class Row:
    """One file with one set of knobs and one recipe.

    Attributes:
        runs: the finished runs that count, one for each seed, by seed.
        changed: knobs and recipe fields that differ from the file's own.
        full_epochs: the number of epochs that the file declares; the largest one if it has several texts.
        label: the architecture, with the first digits of the id if that is ambiguous: ``s6_gap 5f3a``.
        rank: 1 for the highest mean; equal means share a rank; None if provisional or of another number of epochs.
        trials: number of study trials that were spent on its settings; 0 if none, None if unknown.
        copies: imported records of trainings that `runs` holds already.
        conflicts: seeds of which several records differ.
        gaps: seeds that were begun and of which no record counts, or not the one that was begun first.
        unregistered: seeds of this machine's runs that its register of begun runs does not have.
        verifications: those whose claimed runs are among `runs`, oldest first.
    """

    runs: tuple[Run, ...]
    changed: Mapping[str, Any]
    full_epochs: int
    label: str
    rank: int | None = None
    trials: int | None = 0
    copies: tuple[Run, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    gaps: tuple[Gap, ...] = ()
    unregistered: tuple[int, ...] = ()
    verifications: tuple[Verification, ...] = ()

    @property
    def first(self) -> FinishedRun:
        """The run with the lowest seed; all runs of a row agree in what `identity` returns."""
        return self.runs[0].facts

    @property
    def names(self) -> list[str]:
        """The names of its files, the most frequent one first; of equally frequent ones that of the lowest seed."""
        return names_of(self.runs)

    @property
    def architecture(self) -> str:
        """The most frequent name of its file."""
        return self.names[0]

    @property
    def texts(self) -> set[str]:
        """What its runs were built from: each source text's SHA-256, with knobs, recipe, dataset and protocol."""
        jobs = {run.facts.job.sha256: run.facts.job for run in self.runs}
        return {_with_settings(sha256, job) for sha256, job in jobs.items()}

    @property
    def name(self) -> str:
        """The label and what was changed: ``s6_gap 5f3a width=12``."""
        return " ".join([self.label, *settings_texts(self.changed)])

    @property
    def key(self) -> str:
        """The hash of `identity`, by which the register knows the row."""
        return row_key(self.first.job)

    @property
    def id(self) -> str:
        """Eight hexadecimal digits, a hash of `identity`."""
        return self.key[:8]

    @property
    def n(self) -> int:
        """Number of seeds."""
        return len(self.runs)

    @property
    def seeds(self) -> list[int]:
        """Its seeds, ascending."""
        return [run.seed for run in self.runs]

    @property
    def scores(self) -> list[float]:
        """The score of each seed: test accuracy after the last epoch."""
        return [run.accuracy for run in self.runs]

    @cached_property
    def score(self) -> Summary:
        """Mean, standard deviation and interval of the scores, on this test set."""
        return summarise(self.scores)

    @property
    def mean(self) -> float:
        """The mean score, by which it ranks; rounded, so that equal counts give equal means whatever n is."""
        return round(self.score.mean, 12)

    @property
    def is_provisional(self) -> bool:
        """Whether there are too few seeds to rank."""
        return self.n < FEWEST

    @property
    def epochs(self) -> int:
        """Number of epochs of its runs."""
        return self.first.job.recipe.epochs

    @property
    def is_full(self) -> bool:
        """Whether that is the number that the file declares; other rows have no rank."""
        return self.epochs == self.full_epochs

    @cached_property
    def looks(self) -> dict[int, float]:
        """The bound of the mean on this test set at each look that its seeds allow, by the number of seeds.

        Raises:
            DataError: the predictions of a run cannot be read.
        """
        if not self.is_benchmark:
            return {}
        return {count: bound_at_look(self.correct[:count]) for count in LOOKS if not self.lacking(count)}

    def lacking(self, count: int) -> list[int]:
        """Return the seeds below `count` that a look with `count` seeds needs and this row lacks."""
        return sorted({*range(count)} - {*self.seeds} | {*range(count)} & self.unsettled)

    @cached_property
    def unsettled(self) -> set[int]:
        """The seeds that a certificate cannot rest on: begun, and gone, changed or withdrawn, whatever came later.

        What another machine did not hand over is made good by a run of this machine.
        """
        trained_here = {run.seed for run in self.runs if not run.is_imported}
        return {gap.seed for gap in self.gaps if not gap.place or gap.seed not in trained_here}

    @property
    def missing(self) -> list[tuple[int, int]]:
        """The stretches of seeds below its highest one that are missing, as (first, number of seeds)."""
        below = [-1, *self.seeds]
        return [(left + 1, right - left - 1) for left, right in itertools.pairwise(below) if right > left + 1]

    @property
    def withheld(self) -> dict[int, list[int]]:
        """The looks that it has enough seeds for and is not given, with the seeds that it lacks."""
        tried = {*self.seeds, *self.unsettled, *(conflict.seed for conflict in self.conflicts)}
        looks = {count: self.lacking(count) for count in LOOKS if len(tried) >= count and self.is_benchmark}
        return {count: lacking for count, lacking in looks.items() if lacking}

    @property
    def certified_at(self) -> list[int]:
        """The looks at which the target was met, by the number of seeds; one is enough for a certificate."""
        return [count for count, bound in self.looks.items() if bound >= BUDGET.accuracy]

    @property
    def lower_bound(self) -> float | None:
        """One-sided lower 95 % bound of the mean score on this test set; None for a single seed."""
        return lower_bound(self.scores)

    @cached_property
    def bound_on_new_images(self) -> float | None:
        """One-sided lower 95 % bound of the mean accuracy on images like these; None for a single seed.

        Raises:
            DataError: the predictions of a run cannot be read.
        """
        return bound_on_new_images(self.correct)

    @property
    def is_benchmark(self) -> bool:
        """Whether the targets apply to its dataset."""
        return self.first.start.is_benchmark

    @property
    def best(self) -> float:
        """Mean accuracy of each seed's best epoch, which was picked on the test set."""
        return statistics.fmean(run.result.best_accuracy for run in self.runs)

    @property
    def best_epochs(self) -> list[int]:
        """The best epoch of each seed."""
        return [run.result.best_epoch for run in self.runs]

    @property
    def gap(self) -> float:
        """How much picking the epoch on the test set would have added to the score."""
        return self.best - self.score.mean

    @property
    def epochs_to_target(self) -> list[int]:
        """Number of epochs to the target, of the seeds that reached it, ascending."""
        found = (run.result.epochs_to_target for run in self.runs)
        return sorted(epochs for epochs in found if epochs is not None)

    @property
    def seconds(self) -> float:
        """Mean seconds of a run, from the first step to the score."""
        return statistics.fmean(run.result.seconds for run in self.runs)

    @property
    def devices(self) -> list[str]:
        """The devices that its runs were trained on."""
        return sorted({run.facts.start.device for run in self.runs})

    @property
    def imported(self) -> int:
        """Number of imported runs."""
        return sum(run.is_imported for run in self.runs)

    @property
    def authors(self) -> dict[str, list[int]]:
        """The seeds of each author that its runs or their copies name, by name."""
        found: dict[str, set[int]] = defaultdict(set)
        for run in (*self.runs, *self.copies):
            found[run.facts.start.author].add(run.seed)
        return {author: sorted(seeds) for author, seeds in sorted(found.items()) if author}

    @property
    def parameters(self) -> int:
        """Number of stored numbers of the network."""
        return self.first.start.parameters

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds for one image."""
        return self.first.start.model.multiply_adds

    @property
    def uses(self) -> Mapping[str, bool]:
        """Which parts the network uses of those the assignment asks about: batch norm, dropout, ..."""
        return self.first.start.model.uses

    @property
    def size(self) -> int | None:
        """The smallest of `SIZES` that it fits into, or None."""
        return next((size for size in SIZES if self.parameters <= size), None)

    @property
    def targets(self) -> list[Target]:
        """The challenge's targets, compared with the mean score."""
        return verdict(self.parameters, self.epochs, self.score.mean, BUDGET, self.is_benchmark)

    @property
    def commands(self) -> list[str]:
        """The commands that train these runs again."""
        command = run_command(self.first.job.path, self.first.job.dataset, self.changed)
        return [f"{command} --seed {first} --seeds {count}" for first, count in stretches(self.seeds)]

    @property
    def correct(self) -> np.ndarray:
        """Which test images each seed classifies correctly: (seeds, images) bool.

        Raises:
            DataError: the predictions of a run cannot be read.
        """
        return np.stack([run.correct for run in self.runs])


def names_of(runs: Sequence[Run]) -> list[str]:
    """Return the names of the files of runs, the most frequent one first; of equally frequent ones the first."""
    return [name for name, _ in Counter(run.facts.job.name for run in runs).most_common()]


def with_one_text(rows: Sequence[Row]) -> list[list[Row]]:
    """Return the rows that share a source text with its settings: the text builds several networks."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        for text in row.texts:
            groups[text].append(row)
    return [group for group in groups.values() if len(group) > 1]


def row_key(job: Job) -> str:
    """Return a hash of `identity`."""
    return hashlib.sha256(identity(job).encode()).hexdigest()


def identity(job: Job) -> str:
    """Return a text that is equal for runs that may be averaged: network, knobs, recipe, dataset and protocol."""
    return _with_settings(job.network or job.sha256, job)


def _with_settings(what: str, job: Job) -> str:
    recipe = [getattr(job.recipe, name) for name in RECIPE_FIELDS]
    return json.dumps([what, dict(job.knobs), recipe, job.dataset_digest, job.protocol], sort_keys=True)


def stretches(seeds: Sequence[int]) -> list[tuple[int, int]]:
    """Return (first, count) of each stretch of consecutive numbers."""
    found: list[tuple[int, int]] = []
    for seed in seeds:
        if found and seed == sum(found[-1]):
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((seed, 1))
    return found
