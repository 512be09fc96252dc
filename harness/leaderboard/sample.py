"""Which runs of a row count: one a seed, none where imported records contradict each other, and no training twice.

Nothing here is decided by a time that stands in a record, because its author may have written it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.errors import printable
from harness.journal import Run
from harness.spec import Job


@dataclass(frozen=True)
class LeftOut:
    """A run that does not count, the reason, and its job if that can be read."""

    run_id: str
    reason: str
    job: Job | None = None


@dataclass(frozen=True)
class Conflict:
    """Records of one seed that differ in their losses or predictions.

    Attributes:
        places: where they come from, each once.
        surroundings: the devices, compute modes and versions that they state, each once.
        counts: what was trained here and counts; empty if all are imported and none is verified: then none counts.
    """

    seed: int
    places: tuple[str, ...]
    surroundings: tuple[str, ...]
    counts: str

    @property
    def text(self) -> str:
        """The conflict in words."""
        return f"conflict: seed {self.seed} {self.about}"

    @property
    def about(self) -> str:
        """The conflict in words, but for its seed: who is in it, why, and what counts."""
        both = " and ".join(self.places * 2 if len(self.places) == 1 and self.counts != _TRAINED else self.places)
        stated = " and ".join(self.surroundings)
        is_explained = len(self.surroundings) > 1
        why = (
            f"as bits of other machines, modes or versions do ({stated})"
            if is_explained
            else f"though all state {stated}"
        )
        own = "of this machine and " if self.counts == _TRAINED else ""
        counts = f"{self.counts} counts" if self.counts else "none counts until it is trained here"
        return f"{own}from {both} differ, {why}; {counts}"


_TRAINED: Final = "what was trained here"
_VERIFIED: Final = "the one that was verified here"


@dataclass(frozen=True)
class Disputed:
    """A row without a seed that counts, as its imported records contradict each other.

    Attributes:
        command: trains it here, without options for seeds.
    """

    title: str
    conflicts: tuple[Conflict, ...]
    command: str


@dataclass(frozen=True)
class Sample:
    """The runs of one row.

    Attributes:
        runs: those that count, one a seed, by seed.
        copies: imported records of the same trainings, such as those of an author who trained a row again.
        conflicts: seeds with records that differ.
        left_out: the runs that do not count, with the reason.
    """

    runs: tuple[Run, ...]
    copies: tuple[Run, ...]
    conflicts: tuple[Conflict, ...]
    left_out: tuple[LeftOut, ...]


def choose(runs: Sequence[Run], verified: Collection[tuple[int, str]] = ()) -> Sample:
    """Choose the runs of a row that count.

    Args:
        runs: all of them, those of this machine before imported ones, in the order in which they were recorded.
        verified: seeds and digests that a training on this machine gave again, bit for bit.
    """

    def is_verified(run: Run) -> bool:
        return (run.seed, run.digest) in verified

    by_seed: dict[int, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.is_imported and not is_verified(run)):
        by_seed[run.seed].append(run)
    conflicts = [conflict for found in by_seed.values() for conflict in _conflict(found, is_verified(found[0]))]
    disputed = {conflict.seed for conflict in conflicts if not conflict.counts}
    counted = {found[0].run_id: found[0] for seed, found in by_seed.items() if seed not in disputed}
    twins = {run.run_id: twin for run, twin in _twins([*counted.values()])}
    chosen = sorted((run for run in counted.values() if run.run_id not in twins), key=lambda run: run.seed)
    said = {conflict.seed: conflict.text for conflict in conflicts}
    left_out, copies = [], []
    for seed, (first, *others) in by_seed.items():
        again = f"seed {seed} again; {first.run_id} counts"
        if seed in disputed:
            left_out += [LeftOut(run.run_id, said[seed]) for run in (first, *others)]
            continue
        if first.run_id in twins:
            left_out.append(LeftOut(first.run_id, f"its training losses are those of {twins[first.run_id].run_id}"))
        for run in others:
            differs = run.is_imported and run.digest != first.digest
            left_out.append(LeftOut(run.run_id, said[seed] if differs else again))
            copies += [] if differs or not run.is_imported else [run]
    return Sample(tuple(chosen), tuple(copies), tuple(conflicts), tuple(left_out))


def _conflict(runs: Sequence[Run], is_verified: bool) -> Iterator[Conflict]:
    """Yield the conflict between the runs of one seed, if there is one; of local runs the first counts, without any."""
    first, *others = runs
    differing = [run for run in others if run.is_imported and run.digest != first.digest]
    if differing:
        involved = [first, *differing]
        places = sorted({place_name(run) for run in involved if run.is_imported})
        surroundings = sorted({_surroundings(run) for run in involved})
        counts = _TRAINED if not first.is_imported else _VERIFIED if is_verified else ""
        yield Conflict(first.seed, tuple(places), tuple(surroundings), counts)


def _surroundings(run: Run) -> str:
    """Return what a run states of the machine, mode and versions that its bits depend on."""
    start = run.facts.start
    return printable(f"{start.device}, torch {start.environment.torch}, harness {start.environment.harness}")


def _twins(runs: Sequence[Run]) -> Iterator[tuple[Run, Run]]:
    """Yield each run with an earlier one that has all of its training losses: a copy under another seed."""
    known: dict[tuple[float, ...], Run] = {}
    for run in runs:
        first = known.setdefault(tuple(run.losses), run)
        if first is not run:
            yield run, first


def says_what_was_begun(run: Run) -> bool:
    """Return whether the file of an imported run says which seeds of its row were begun and not handed over."""
    return run.facts.origin is not None and run.facts.origin.held_back is not None


def place_name(run: Run) -> str:
    """Return the name of the file or server that an imported run comes from, without its folder."""
    return Path(run.facts.origin.place).name if run.facts.origin else ""
