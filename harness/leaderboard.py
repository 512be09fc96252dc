"""Journals to a ranked table: what may be averaged, what is left out and why, who is better than whom.

A row is one file with one set of knobs and one recipe; its sample are the finished runs of distinct seeds.
Rows are ordered by their mean score. What the difference between two of them is worth is another question,
which `harness.statistics.compare` answers. Means, intervals, certificates and the bounds of class leaders speak of
this test set; comparisons speak of new images.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import shlex
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from harness import page, plugins, records
from harness.errors import DataError, UsageError, did_you_mean, printable
from harness.evaluation import Target, verdict
from harness.journal import Journal, Outcome, Record
from harness.spec import BUDGET, RECIPE_FIELDS, Job, StudyRecord
from harness.statistics import (
    FEWEST,
    LOOKS,
    Comparison,
    Summary,
    Verdict,
    bound_at_look,
    bound_on_new_images,
    compare,
    holm,
    judge,
    leader_bound,
    lower_bound,
    mcnemar,
    summarise,
)

LEADERS = 5
"""Rows that are compared with each other."""

SIZES = (1_000, 2_000, 5_000, 10_000, 20_000)
"""The classes by size: at most as many parameters."""


@dataclass(frozen=True)
class Run:
    """A finished run: its journal and what was read there."""

    journal: Journal
    record: Record

    @property
    def seed(self) -> int:
        """The seed it was trained from."""
        return int(self.record.job["seed"])

    @property
    def outcome(self) -> Mapping[str, Any]:
        """The journal's last event."""
        assert self.record.ended
        return self.record.ended

    @property
    def losses(self) -> list[float]:
        """The training loss of each epoch: no two seeds share them."""
        return [epoch["train_loss"] for epoch in self.record.epochs]

    @property
    def test(self) -> Outcome:
        """The final test pass, read each time: the answers of ten thousand runs would not fit into memory.

        Raises:
            DataError: it cannot be read, or does not hold.
        """
        return records.outcome(self.journal, self.record)

    @cached_property
    def correct(self) -> np.ndarray:
        """(images,) bool: which test images it answers rightly.

        Raises:
            DataError: they cannot be read, or do not hold.
        """
        test = self.test
        right: np.ndarray = test.answers == test.labels
        return right


@dataclass(frozen=True)
class LeftOut:
    """A run that does not count, why, and its job where that can be read."""

    run_id: str
    reason: str
    job: dict[str, Any] | None = None


@dataclass(frozen=True)
class Row:
    """One file with one set of knobs and one recipe.

    Attributes:
        runs: the finished runs that count, one a seed, by seed.
        changed: knobs and recipe fields that are not the file's own.
        full_epochs: the file's own number of epochs.
        label: the architecture, and where that says too little the first digits of the id: ``s6_gap 5f3a``.
        rank: 1 for the highest mean; equal means share it; None while provisional, or of other epochs than the file's.
        trials: how many trials of studies came before its settings were found; 0 for the file's own, None if unknown.
    """

    runs: tuple[Run, ...]
    changed: Mapping[str, Any]
    full_epochs: int
    label: str
    rank: int | None = None
    trials: int | None = 0

    @property
    def first(self) -> Record:
        """The record of its lowest seed; what the key names is the same in all."""
        return self.runs[0].record

    @property
    def architecture(self) -> str:
        """The name of its file."""
        return str(self.first.job["name"])

    @property
    def name(self) -> str:
        """The label and what was changed: ``s6_gap 5f3a width=12``."""
        return " ".join([self.label, *page.short(self.changed)])

    @property
    def id(self) -> str:
        """Eight hexadecimal digits that stand for what its runs have in common."""
        return hashlib.sha256(identity(self.first.job).encode()).hexdigest()[:8]

    @property
    def n(self) -> int:
        """Distinct seeds."""
        return len(self.runs)

    @property
    def seeds(self) -> list[int]:
        """Its seeds, in order."""
        return [run.seed for run in self.runs]

    @property
    def scores(self) -> list[float]:
        """The score of each seed: test accuracy after the last epoch."""
        return [run.outcome["accuracy"] for run in self.runs]

    @cached_property
    def score(self) -> Summary:
        """Mean, spread and interval of the scores, on this test set."""
        return summarise(self.scores)

    @property
    def mean(self) -> float:
        """The mean score, by which it ranks: equal counts of right answers give equal means, whatever n is."""
        return round(self.score.mean, 12)

    @property
    def is_provisional(self) -> bool:
        """Whether there are too few seeds to rank."""
        return self.n < FEWEST

    @property
    def epochs(self) -> int:
        """The epochs that its runs train for."""
        return int(self.first.job["recipe"]["epochs"])

    @property
    def is_full(self) -> bool:
        """Whether that is the file's own number: another row has no rank."""
        return self.epochs == self.full_epochs

    @cached_property
    def looks(self) -> dict[int, float]:
        """The bound of the mean on this test set at each look that its seeds allow, by their number.

        Raises:
            DataError: the answers of a run cannot be read.
        """
        if not self.is_benchmark:
            return {}
        return {count: bound_at_look(self.correct[:count]) for count in LOOKS if self.seeds[:count] == [*range(count)]}

    @property
    def certified_at(self) -> list[int]:
        """The looks, by their number of seeds, at which the target was held: a certificate is given for one."""
        return [count for count, bound in self.looks.items() if bound >= BUDGET.accuracy]

    @property
    def lower_bound(self) -> float | None:
        """Of the mean score on this test set, one-sided, with 95 % confidence; None for a single seed."""
        return lower_bound(self.scores)

    @cached_property
    def bound_on_new_images(self) -> float | None:
        """Of the mean accuracy on images like these, one-sided, with 95 % confidence; None for a single seed.

        Raises:
            DataError: the answers of a run cannot be read.
        """
        return bound_on_new_images(self.correct)

    @property
    def is_benchmark(self) -> bool:
        """Whether its dataset is the one that the targets speak of."""
        return bool(self.first.started["is_benchmark"])

    @property
    def best(self) -> float:
        """The mean over seeds of the best epoch, which was picked on the test set."""
        return statistics.fmean(run.outcome["best_accuracy"] for run in self.runs)

    @property
    def best_epochs(self) -> list[int]:
        """The best epoch of each seed."""
        return [run.outcome["best_epoch"] for run in self.runs]

    @property
    def gap(self) -> float:
        """What picking the epoch on the test set would have added."""
        return self.best - self.score.mean

    @property
    def epochs_to_target(self) -> list[int]:
        """The epochs of those seeds that reached the target, in order."""
        found = (run.outcome["epochs_to_target"] for run in self.runs)
        return sorted(epochs for epochs in found if epochs is not None)

    @property
    def seconds(self) -> float:
        """Mean time of a run, from the first step to the score."""
        return statistics.fmean(run.outcome["seconds"] for run in self.runs)

    @property
    def devices(self) -> list[str]:
        """What it was trained on."""
        return sorted({run.record.device for run in self.runs})

    @property
    def imported(self) -> int:
        """How many of its runs came from another machine."""
        return sum(bool(run.record.origin) for run in self.runs)

    @property
    def parameters(self) -> int:
        """Stored numbers of the network."""
        return int(self.first.started["parameters"])

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one image."""
        return int(self.first.started["anatomy"]["multiply_adds"])

    @property
    def uses(self) -> Mapping[str, bool]:
        """The parts the assignment asks about: batch norm, dropout, ..."""
        return dict(self.first.started["anatomy"]["uses"])

    @property
    def size(self) -> int | None:
        """The smallest of `SIZES` it fits into; None if it fits into none."""
        return next((size for size in SIZES if self.parameters <= size), None)

    @property
    def targets(self) -> list[Target]:
        """The mean score held against the challenge's targets."""
        return verdict(self.parameters, self.epochs, self.score.mean, BUDGET, self.is_benchmark)

    @property
    def commands(self) -> list[str]:
        """What to type to get these runs again."""
        settings = "".join(f" --set {name}={page.value_text(value)}" for name, value in self.changed.items())
        job = self.first.job
        return [
            f"python -m harness run {shlex.quote(job['path'])} --dataset {job['dataset']}{settings}"
            f" --seed {first} --seeds {count}"
            for first, count in _stretches(self.seeds)
        ]

    @property
    def correct(self) -> np.ndarray:
        """(seeds, images) bool: which test images each seed answers rightly.

        Raises:
            DataError: those of a run cannot be read.
        """
        return np.stack([run.correct for run in self.runs])


@dataclass(frozen=True)
class Pair:
    """Two rows compared, on new images.

    Attributes:
        a, b: the rows; the verdict is on `a`.
        p: the p-value after Holm's adjustment; None where a row has a single seed.
        among: the number of pairs that it is adjusted for.
        verdict: whether `a` is better than `b`.
        mcnemar: the exact p-value for the two runs, where each row is a single one: of the two trained
            networks, not of their recipes.
    """

    a: Row
    b: Row
    comparison: Comparison
    p: float | None
    among: int
    verdict: Verdict
    mcnemar: float | None


@dataclass(frozen=True)
class Leader:
    """The first row of a class by size.

    Attributes:
        rows: how many ranked rows the class has.
        bound: of its mean score on this test set, 95 %, allowing for its being the best of them.
    """

    row: Row
    rows: int
    bound: float


@dataclass(frozen=True)
class Board:
    """A ranking.

    Attributes:
        rows: those with a rank in its order, then the provisional ones, highest mean first; after them those of
            another number of epochs than their file's.
        left_out: finished or not, what does not count.
        pairs: the leaders compared with each other.
        elsewhere: datasets with runs of their own, which never stand beside these.
        asked: the pair that was asked for.
    """

    dataset: str
    rows: tuple[Row, ...]
    left_out: tuple[LeftOut, ...]
    pairs: tuple[Pair, ...]
    elsewhere: tuple[str, ...]
    asked: Pair | None = None

    def find(self, name: str) -> Row:
        """Return the row of this name, id or rank.

        Raises:
            UsageError: there is none, or several of this name.
        """
        found = (
            [row for row in self.rows if name in (row.name, row.label)]
            or [row for row in self.rows if name in (row.architecture, str(row.rank or ""))]
            or [row for row in self.rows if len(name) >= 4 and row.id.startswith(name)]
        )
        if len(found) != 1:
            legal = [row.label for row in found or self.rows]
            raise UsageError(
                f"{'No row is' if not found else f'{len(found)} rows are'} called '{name}'.",
                legal=f"Legal: {', '.join(map(repr, legal))}.",
                mend=did_you_mean(name, legal) or "Name a row by its rank, or as it is called there.",
            )
        return found[0]


def rank(journals: Iterable[Journal], dataset: str = "auto", studies: Sequence[StudyRecord] = ()) -> Board:
    """Read journals and rank what is finished.

    Args:
        dataset: which board; ``auto`` for the benchmark if it has any run, else the only other.
        studies: whose trials were spent on a row's settings.

    Raises:
        UsageError: no finished run of `dataset`.
    """
    runs, left_out = _read(journals)
    names = sorted({run.record.job["dataset"] for run in runs}, key=lambda name: (name != "mnist", name))
    chosen = (names or ["mnist"])[0] if dataset == "auto" else dataset
    counted = [run for run in runs if run.record.job["dataset"] == chosen]
    damaged = [*_unreadable(counted)]
    left_out += damaged
    gone = {entry.run_id for entry in damaged}
    counted = [run for run in counted if run.record.run_id not in gone]
    if not counted:
        raise _nothing(dataset, chosen, left_out)
    rows, again = _rows(counted, studies)
    left_out = [entry for entry in left_out if entry.job is None or entry.job.get("dataset", chosen) == chosen]
    left_out = sorted([*left_out, *again], key=lambda entry: entry.run_id)
    elsewhere = tuple(name for name in names if name != chosen)
    return Board(chosen, tuple(rows), tuple(left_out), tuple(compare_leaders(rows)), elsewhere)


def _nothing(asked: str, dataset: str, left_out: Sequence[LeftOut]) -> UsageError:
    said = "".join(f" {entry.run_id}: {entry.reason}." for entry in left_out[:1])
    return UsageError(
        f"There is no finished run{'' if asked == 'auto' else f' on {asked}'} to rank.",
        legal=f"{len(left_out)} left out.{said}" if left_out else "",
        mend=f"Train one (python -m harness run FILE --dataset {dataset}), or take some in with --import FILE.",
    )


def compare_leaders(rows: Sequence[Row]) -> list[Pair]:
    """Compare every leader with every later one, adjusting for their number."""
    return compare_all(_leading(rows))


def compare_asked(rows: Sequence[Row], a: Row, b: Row) -> Pair:
    """Compare two rows of a board, adjusting for all pairs of its ranked rows: any could have been asked for."""
    others = [(first, second) for first, second in _leading(rows) if {first.id, second.id} != {a.id, b.id}]
    could_be = {a.id, b.id, *(row.id for row in rows if row.rank)}
    return compare_all([(a, b), *others], math.comb(len(could_be), 2))[0]


def _leading(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    return [*itertools.combinations([row for row in rows if row.rank][:LEADERS], 2)]


def compare_all(pairs: Sequence[tuple[Row, Row]], among: int | None = None) -> list[Pair]:
    """Compare pairs of rows, adjusting for their number, or for being some `among` so many."""
    among = len(pairs) if among is None else among
    found = [compare(a.correct, b.correct, among) for a, b in pairs]
    adjusted = iter(holm([comparison.p for comparison in found if comparison.p is not None], among))
    made = []
    for (a, b), comparison in zip(pairs, found, strict=True):
        p = None if comparison.p is None else next(adjusted)
        exact = mcnemar(a.correct[0], b.correct[0]) if a.n == b.n == 1 else None
        verdict = judge(comparison.difference, p, min(a.n, b.n))
        made.append(Pair(a, b, comparison, p, among, verdict, exact))
    return made


def answers(journals: Iterable[Journal], jobs: Sequence[Job]) -> np.ndarray:
    """Return which test images the finished runs of some jobs answer rightly: (jobs, images) bool, in their order.

    Raises:
        DataError: a job has no finished run, or its answers cannot be read.
    """
    wanted = {(identity(asdict(job)), job.seed): place for place, job in enumerate(jobs)}
    found: dict[int, Run] = {}
    runs, _ = _read(journals)
    for run in sorted(runs, key=_precedence):
        place = wanted.get((identity(run.record.job), run.seed))
        if place is not None:
            found.setdefault(place, run)
    if missing := [job for place, job in enumerate(jobs) if place not in found]:
        raise DataError(f"{missing[0].name} has no finished run of seed {missing[0].seed} here.")
    return np.stack([found[place].correct for place in range(len(jobs))])


def pareto(rows: Sequence[Row]) -> list[Row]:
    """Return the ranked rows that no other of at most their size scores above, the smallest first."""
    front: list[Row] = []
    for row in sorted((row for row in rows if row.rank), key=lambda row: (row.parameters, -row.mean)):
        if not front or row.mean > front[-1].mean:
            front.append(row)
    return front


def leaders_by_size(rows: Sequence[Row]) -> dict[int, Leader]:
    """Return, for each class by size that has a ranked row, the first, the largest class first."""
    classes: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        if row.rank and row.size:
            classes[row.size].append(row)
    board = [row.scores for row in rows if row.rank]
    return {
        size: Leader(found[0], len(found), leader_bound(found[0].correct, board, len(found)))
        for size, found in sorted(classes.items(), reverse=True)
    }


def wrong_for_all(rows: Sequence[Row]) -> list[int]:
    """Return the positions of test images that every run of every row answers wrongly."""
    right: np.ndarray = np.any([row.correct.any(0) for row in rows], axis=0)
    return [int(position) for position in np.flatnonzero(~right)]


# --- reading --------------------------------------------------------------------------------------------


def _read(journals: Iterable[Journal]) -> tuple[list[Run], list[LeftOut]]:
    runs, left_out = [], []
    for journal in journals:
        try:
            runs.append(Run(journal, records.finished(journal)))
        except DataError as error:
            left_out.append(LeftOut(journal.run_id, printable(error.wrong), _job(journal)))
    trained = [run.record.job for run in runs]
    return runs, [entry for entry in left_out if not (entry.reason == "interrupted" and entry.job in trained)]


def _job(journal: Journal) -> dict[str, Any] | None:
    try:
        record = journal.read()
        return record.job if record else None
    except Exception:  # whatever a line leads to that somebody damaged
        return None


def identity(job: Mapping[str, Any]) -> str:
    """Return what runs that may be averaged have in common, from the fields of a `Job`."""
    recipe = [job["recipe"][name] for name in RECIPE_FIELDS]
    return json.dumps([job["sha256"], job["knobs"], recipe, job["dataset_digest"], job["protocol"]], sort_keys=True)


def _precedence(run: Run) -> tuple[bool, int, str]:
    """Of one seed the first run counts, and a run of one's own before one that came from elsewhere."""
    return bool(run.record.origin), run.record.started["time"], run.record.run_id


def _rows(runs: Sequence[Run], studies: Sequence[StudyRecord]) -> tuple[list[Row], list[LeftOut]]:
    """Group runs into ranked rows; of several runs of one seed the first counts."""
    groups: dict[str, dict[int, Run]] = defaultdict(dict)
    curves: dict[tuple[Any, ...], Run] = {}
    again = []
    for run in sorted(runs, key=_precedence):
        counted = groups[identity(run.record.job)].setdefault(run.seed, run)
        twin = curves.setdefault((identity(run.record.job), *run.losses), run)
        if counted is not run:
            again.append(LeftOut(run.record.run_id, f"seed {run.seed} again; {counted.record.run_id} counts"))
        elif twin is not run:
            del groups[identity(run.record.job)][run.seed]
            again.append(LeftOut(run.record.run_id, f"its training losses are those of {twin.record.run_id}"))
    rows = _labelled([_row(list(group.values()), studies) for group in groups.values()])
    rows.sort(key=lambda row: (not row.is_full, row.is_provisional, -row.mean, row.name))
    ranked = [row.mean for row in rows if row.is_full and not row.is_provisional]
    return [
        replace(row, rank=1 + ranked.index(row.mean)) if row.is_full and not row.is_provisional else row for row in rows
    ], again


def _row(runs: list[Run], studies: Sequence[StudyRecord]) -> Row:
    runs.sort(key=lambda run: run.seed)
    job = runs[0].record.job
    own = plugins.declaration(runs[0].journal.source)
    default = {**job["default_knobs"], **own.knobs}
    changed = {name: value for name, value in job["knobs"].items() if value != default[name]}
    changed |= {name: job["recipe"][name] for name in RECIPE_FIELDS if job["recipe"][name] != getattr(own.recipe, name)}
    return Row(tuple(runs), changed, own.recipe.epochs, job["name"], trials=_trials(runs, studies))


def _labelled(rows: Sequence[Row]) -> list[Row]:
    """Tell apart what shares a name: changed settings, and files that were edited in between."""
    plain = Counter(row.label for row in rows if not row.changed)
    return [
        replace(row, label=f"{row.architecture} {row.id[:4]}") if row.changed or plain[row.label] > 1 else row
        for row in rows
    ]


def _trials(runs: Sequence[Run], studies: Sequence[StudyRecord]) -> int | None:
    """Count the trials of all studies in which these settings were found."""
    job = runs[0].record.job
    settings = {**job["recipe"], **job["knobs"]}
    here = sum(
        len(study.trials)
        for study in studies
        if study.search["architecture_sha256"] == job["sha256"]
        and study.search["dataset_digest"] == job["dataset_digest"]
        and any(_is_part(trial.settings, settings) for trial in study.trials)
    )
    told = [run.record.origin["trials"] for run in runs if run.record.origin]
    known = [count for count in told if count is not None]
    return None if not here and len(known) < len(told) else max([here, *known])


def _is_part(settings: Mapping[str, Any], of: Mapping[str, Any]) -> bool:
    return all(of.get(name) == value for name, value in settings.items() if name != "epochs")


def _unreadable(runs: Iterable[Run]) -> Iterator[LeftOut]:
    for run in runs:
        try:
            _ = run.correct
        except DataError as error:
            yield LeftOut(run.record.run_id, error.wrong)


def _stretches(seeds: Sequence[int]) -> list[tuple[int, int]]:
    """Return (first, count) of each unbroken stretch of ascending numbers."""
    found: list[tuple[int, int]] = []
    for seed in seeds:
        if found and seed == sum(found[-1]):
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((seed, 1))
    return found
