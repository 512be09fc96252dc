"""Ranks finished runs: groups journals into rows, leaves out the others with a reason, and compares the leaders.

A row is one file with one set of knobs and one recipe; its sample is its finished runs, one for each seed. Rows are
ordered by mean score. Whether the difference between two rows is significant is a separate question, answered by
`harness.statistics.compare`. Means, intervals, certificates and the bounds of class leaders are about this test set;
comparisons are about new images.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from harness import plugins
from harness.errors import DataError, UsageError, did_you_mean, printable
from harness.events import StudyRecord
from harness.journal import Journal, Register, Run, begun
from harness.journal.verifications import Verification, read_all
from harness.leaderboard.compare import Pair, compare_leaders
from harness.leaderboard.gaps import Gap, contradicted, find_gaps, gaps_elsewhere, lost_elsewhere
from harness.leaderboard.row import Row, identity, names_of, row_key
from harness.leaderboard.sample import Disputed, LeftOut, Sample, choose
from harness.leaderboard.withdrawal import brought_back
from harness.plugins import changed_settings, run_command
from harness.spec import Job
from harness.statistics import leader_bound


@dataclass(frozen=True)
class Leader:
    """The best row of a size class.

    Attributes:
        rows: number of ranked rows in the class.
        bound: lower 95 % bound of its mean score on this test set, adjusted for being the best of those rows.
    """

    row: Row
    rows: int
    bound: float


@dataclass(frozen=True)
class Board:
    """The ranking of one dataset.

    Attributes:
        rows: the ranked ones by rank, then the provisional ones by mean score, then those with another number of
            epochs than their file declares.
        left_out: the runs that do not count, finished or not.
        pairs: the comparisons of the leaders.
        elsewhere: other datasets with runs, which never share a ranking, and the names of the networks there.
        disputed: rows of imported records that contradict each other in every seed.
        lost: seeds that were begun, here or where imported files were made, of networks that have no row there.
        register: the register of begun runs of this machine.
        asked: the pair that the user asked for, if any.
    """

    dataset: str
    rows: tuple[Row, ...]
    left_out: tuple[LeftOut, ...]
    pairs: tuple[Pair, ...]
    elsewhere: Mapping[str, frozenset[str]]
    disputed: tuple[Disputed, ...]
    lost: tuple[Gap, ...]
    register: Register
    asked: Pair | None = None

    def find(self, name: str) -> Row:
        """Return the row with this name, id or rank.

        Raises:
            UsageError: there is no such row, or several.
        """
        found = (
            [row for row in self.rows if name in (row.name, row.label)]
            or [row for row in self.rows if name in (*row.names, str(row.rank or ""))]
            or [row for row in self.rows if len(name) >= 4 and row.id.startswith(name)]
        )
        if len(found) != 1:
            allowed = [row.label for row in found or self.rows]
            which = f"{len(found)} rows of {self.dataset} are" if found else f"No row of {self.dataset} is"
            raise UsageError(
                f"{which} called '{name}'.",
                allowed=f"Allowed: {', '.join(map(repr, allowed))}.",
                hint="Name a row by its name on the board." if found else self._hint(name, allowed),
            )
        return found[0]

    def _hint(self, name: str, labels: Sequence[str]) -> str:
        """Return where a row of another board is, or what else could have been meant."""
        name = Path(name).stem if name.endswith(".py") else name
        for dataset, names in self.elsewhere.items():
            if name.partition(" ")[0] in names:
                return f"'{name}' is a row of {dataset}: add --dataset {dataset}."
        if any(name == row.title for row in self.disputed):
            return f"{name} is disputed: train it, or verify one of its runs by its id (under What does not count)."
        others = " or ".join(f"--dataset {dataset}" for dataset in self.elsewhere)
        known = [*labels, *chain(*self.elsewhere.values())]
        return did_you_mean(name, known) or f"Name a row by its name on the board{others and f', or add {others}'}."


def rank(journals: Iterable[Journal], dataset: str = "auto", studies: Sequence[StudyRecord] = ()) -> Board:
    """Read journals and rank the finished runs of one dataset.

    Args:
        dataset: its name; ``auto`` for MNIST if it has a run, else the first other one by name.
        studies: studies whose trials count as spent on a row's settings.

    Raises:
        UsageError: there is no finished run on `dataset`.
    """
    journals, register = [*journals], begun.read()
    present = {journal.run_id for journal in journals}
    runs, left_out = _read(journals)
    names = sorted({run.facts.job.dataset for run in runs}, key=lambda name: (name != "mnist", name))
    chosen = (names or ["mnist"])[0] if dataset == "auto" else dataset
    counted = [run for run in runs if run.facts.job.dataset == chosen]
    for find in (_unreadable, partial(contradicted, register), partial(brought_back, register)):
        refused = {entry.run_id: entry for entry in find(counted)}
        counted = [run for run in counted if run.run_id not in refused]
        left_out += refused.values()
    groups = _groups(counted, register)
    verifications = read_all()
    samples = [choose(group, _repeated(key, verifications)) for key, group in groups.items()]
    left_out += [entry for sample in samples for entry in sample.left_out]
    gaps = [gap for gap in find_gaps(register, groups, present) if gap.dataset == chosen]
    rows = _ranked(
        _labelled([_row(sample, studies, gaps, register, verifications) for sample in samples if sample.runs])
    )
    if not rows:
        raise _nothing(dataset, chosen, left_out, [name for name in names if name != chosen])
    left_out = [entry for entry in left_out if entry.job is None or entry.job.dataset == chosen]
    left_out = sorted(left_out, key=lambda entry: entry.run_id)
    elsewhere = {
        name: frozenset(run.facts.job.name for run in runs if run.facts.job.dataset == name)
        for name in names
        if name != chosen
    }
    known = {row.key for row in rows}
    lost = (*(gap for gap in gaps if gap.row not in known), *lost_elsewhere(counted))
    pairs = tuple(compare_leaders(rows))
    disputed = tuple(
        _disputed(group[0], sample)
        for group, sample in zip(groups.values(), samples, strict=True)
        if not sample.runs and sample.conflicts
    )
    return Board(chosen, tuple(rows), tuple(left_out), pairs, elsewhere, disputed, lost, register)


def _nothing(asked: str, dataset: str, left_out: Sequence[LeftOut], elsewhere: Sequence[str]) -> UsageError:
    said = "".join(f" {entry.run_id}: {entry.reason}." for entry in left_out[:1])
    return UsageError(
        f"There is no finished run{'' if asked == 'auto' else f' on {asked}'} to rank.",
        allowed=f"{len(left_out)} left out.{said}" if left_out else "",
        hint=f"Train one (python -m harness run FILE --dataset {dataset}), or import some with --import FILE."
        + "".join(f" There are runs on {name}: --dataset {name}." for name in elsewhere),
    )


def correct_predictions(journals: Iterable[Journal], jobs: Sequence[Job]) -> np.ndarray:
    """Return which test images the finished runs of some jobs classify correctly: (jobs, images) bool.

    Raises:
        DataError: a job has no finished run, or its predictions cannot be read.
    """
    wanted = {(identity(job), job.seed): place for place, job in enumerate(jobs)}
    found: dict[int, Run] = {}
    runs, _ = _read(journals)
    for run in _in_order(runs, begun.read()):
        place = wanted.get((identity(run.facts.job), run.seed))
        if place is not None:
            found.setdefault(place, run)
    if missing := [job for place, job in enumerate(jobs) if place not in found]:
        raise DataError(f"{missing[0].name} has no finished run of seed {missing[0].seed} here.")
    return np.stack([found[place].correct for place in range(len(jobs))])


def pareto(rows: Sequence[Row]) -> list[Row]:
    """Return the Pareto front of size and score among the ranked rows, smallest first."""
    front: list[Row] = []
    for row in sorted((row for row in rows if row.rank), key=lambda row: (row.parameters, -row.mean)):
        if not front or row.mean > front[-1].mean:
            front.append(row)
    return front


def leaders_by_size(rows: Sequence[Row]) -> dict[int, Leader]:
    """Return the best row of each size class that has a ranked row, by size, the largest class first."""
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
    """Return the positions of the test images that every run of every row gets wrong."""
    right: np.ndarray = np.any([row.correct.any(0) for row in rows], axis=0)
    return [int(position) for position in np.flatnonzero(~right)]


def _read(journals: Iterable[Journal]) -> tuple[list[Run], list[LeftOut]]:
    runs, left_out = [], []
    for journal in journals:
        try:
            runs.append(Run.of(journal))
        except DataError as error:
            left_out.append(LeftOut(journal.run_id, printable(error.message), _job(journal)))
    trained = [run.facts.job for run in runs]
    return runs, [entry for entry in left_out if not (entry.reason == "interrupted" and entry.job in trained)]


def _job(journal: Journal) -> Job | None:
    try:
        record = journal.read()
        return record.job if record else None
    except Exception:  # a damaged line can raise anything
        return None


def _in_order(runs: Iterable[Run], register: Register) -> list[Run]:
    """Return runs of this machine before imported ones, in the order of the register.

    Runs that are not in the register follow in the order of the times that they state: no such time puts a run before
    one that was seen to begin.
    """
    places = {run_id: place for place, run_id in enumerate(register.runs)}

    def place(run: Run) -> tuple[bool, int, int, str]:
        time = 0 if run.is_imported else run.facts.start.time
        return run.is_imported, places.get(run.run_id, len(places)), time, run.run_id

    return sorted(runs, key=place)


def _groups(runs: Iterable[Run], register: Register) -> dict[str, list[Run]]:
    """Return the runs of each row, by its hash, in the order of `_in_order`."""
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in _in_order(runs, register):
        groups[row_key(run.facts.job)].append(run)
    return groups


def _ranked(rows: Sequence[Row]) -> list[Row]:
    """Sort rows and rank those of enough seeds and the file's own epochs: a tie (equal means) shares one rank.

    Ties are listed by name, and the ranks that they take up are left out: 1, 1, 3.
    """

    def is_ranked(row: Row) -> bool:
        return row.is_full and not row.is_provisional

    ordered = sorted(rows, key=lambda row: (not row.is_full, row.is_provisional, -row.mean, row.name))
    means = [row.mean for row in ordered if is_ranked(row)]
    return [replace(row, rank=1 + means.index(row.mean)) if is_ranked(row) else row for row in ordered]


def _row(
    sample: Sample,
    studies: Sequence[StudyRecord],
    gaps: Sequence[Gap],
    register: Register,
    verifications: Sequence[Verification],
) -> Row:
    runs = sample.runs
    job = runs[0].facts.job
    texts = {run.facts.job.sha256: run.journal for run in reversed(runs)}
    full_epochs = max(plugins.declaration(journal.source).recipe.epochs for journal in texts.values())
    trials = _trials([*runs, *sample.copies], studies)
    unregistered = [run.seed for run in runs if register.exists and not run.is_imported and not _is_in(register, run)]
    key = row_key(job)
    own_gaps = [gap for gap in gaps if gap.row == key]
    return Row(
        runs,
        _changed(runs[0]),
        full_epochs,
        names_of(runs)[0],
        trials=trials,
        copies=sample.copies,
        conflicts=sample.conflicts,
        gaps=(*own_gaps, *gaps_elsewhere(runs)),
        unregistered=tuple(unregistered),
        verifications=tuple(found for found in verifications if found.row == key and _is_about(found, runs)),
    )


def _changed(run: Run) -> dict[str, Any]:
    job, own = run.facts.job, plugins.declaration(run.journal.source)
    return changed_settings(job.knobs, job.recipe, {**job.default_knobs, **own.knobs}, own.recipe)


def _disputed(run: Run, sample: Sample) -> Disputed:
    job = run.facts.job
    return Disputed(run.facts.start.title, sample.conflicts, run_command(job.path, job.dataset, _changed(run)))


def _repeated(row: str, verifications: Iterable[Verification]) -> set[tuple[int, str]]:
    """Return the seeds and results of a row that were trained again on this machine, bit for bit."""
    exact = [found for found in verifications if found.row == row and found.is_good and found.verdict == "bit for bit"]
    return {(seed, result) for found in exact for seed, result in found.claimed if seed in found.seeds}


def _is_about(found: Verification, runs: Sequence[Run]) -> bool:
    """Return whether all runs that a verification is about count."""
    by_seed = {run.seed: run for run in runs}
    return all(seed in by_seed and by_seed[seed].digest == result for seed, result in found.claimed)


def _is_in(register: Register, run: Run) -> bool:
    return run.run_id in register.runs


def _labelled(rows: Sequence[Row]) -> list[Row]:
    """Add an id to the labels of rows that share a name: changed settings, or files edited in between."""
    unchanged = Counter(row.label for row in rows if not row.changed)
    return [
        replace(row, label=f"{row.architecture} {row.id[:4]}") if row.changed or unchanged[row.label] > 1 else row
        for row in rows
    ]


def _trials(runs: Sequence[Run], studies: Sequence[StudyRecord]) -> int | None:
    """Count the trials of all studies that found these settings; None if an imported run does not say."""
    job = runs[0].facts.job
    settings = {**asdict(job.recipe), **job.knobs}
    here = sum(
        len(study.trials)
        for study in studies
        if study.search["architecture_sha256"] == job.sha256
        and study.search["dataset_digest"] == job.dataset_digest
        and any(_is_part(trial.settings, settings) for trial in study.trials)
    )
    reported = [run.facts.origin.trials for run in runs if run.facts.origin]
    known = [count for count in reported if count is not None]
    return None if not here and len(known) < len(reported) else max([here, *known])


def _is_part(settings: Mapping[str, Any], of: Mapping[str, Any]) -> bool:
    return all(of.get(name) == value for name, value in settings.items() if name != "epochs")


def _unreadable(runs: Iterable[Run]) -> Iterator[LeftOut]:
    for run in runs:
        try:
            _ = run.correct
        except DataError as error:
            yield LeftOut(run.facts.run_id, error.message)
