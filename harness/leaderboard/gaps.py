"""Seeds that were begun and do not count: their records are gone, changed, withdrawn or were not handed over."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.errors import printable
from harness.journal import Register, Run
from harness.journal.begun import Entry
from harness.leaderboard.sample import LeftOut, place_name
from harness.spec import BUDGET

State = Literal["gone", "changed", "withdrawn", "held back"]

_FINAL: tuple[State, ...] = ("gone", "changed", "withdrawn")


@dataclass(frozen=True)
class Gap:
    """A run that was begun and does not count.

    Attributes:
        row: the hash of its row.
        title: its network, with changed knobs.
        note: the day on which it began, the reason of a withdrawal, or what another machine says of it.
        place: the file or server that says so; empty for this machine.
    """

    row: str
    title: str
    dataset: str
    seed: int
    state: State
    note: str
    place: str = ""


def find_gaps(register: Register, rows: Mapping[str, Sequence[Run]], present: Collection[str]) -> Iterator[Gap]:
    """Yield the runs of this machine that were begun and do not count, but for repetitions of one that does.

    A run whose record is lost is no gap if another run of its row and seed came to the same result.

    Args:
        rows: by hash of the row, the runs that pass the verification and that the register does not contradict.
        present: the ids of all journals.
    """
    if not register.runs:
        return
    passed = {run.run_id for runs in rows.values() for run in runs}
    results = {(row, run.seed, run.digest) for row, runs in rows.items() for run in runs}
    settled = set()
    for run_id, entry in register.runs.items():
        run, state = entry.begun, _state(entry, run_id in present)
        if run_id in passed:
            settled.add((run.row, run.seed))
            continue
        is_repeated = state != "withdrawn" and (run.row, run.seed, entry.result) in results
        if state and not is_repeated and (run.row, run.seed) not in settled and run.protocol == BUDGET.protocol:
            yield Gap(run.row, run.title, run.dataset, run.seed, state, entry.withdrawn or entry.date)


def _state(entry: Entry, is_present: bool) -> State | None:
    """Return what became of a run that does not count; None if its journal says so itself, as of a failed run."""
    if entry.withdrawn:
        return "withdrawn"
    if not is_present:
        return "gone"
    return "changed" if entry.result else None


def contradicted(register: Register, runs: Sequence[Run]) -> Iterator[LeftOut]:
    """Yield the runs that the register says were withdrawn, or finished with another result."""
    for run in runs:
        entry = register.runs.get(run.run_id)
        if entry and entry.withdrawn:
            yield LeftOut(run.run_id, f"withdrawn: {printable(entry.withdrawn)}", run.facts.job)
        elif entry and entry.result not in ("", run.digest):
            yield LeftOut(run.run_id, "its record is not the one that finished here", run.facts.job)


def gaps_elsewhere(runs: Sequence[Run]) -> list[Gap]:
    """Return what the files of imported runs of one row say was begun and not handed over, each once.

    A seed that was unfinished then and was handed over later is no gap.
    """
    first, counted = runs[0].facts, {run.seed for run in runs}
    title, dataset = first.start.title, first.job.dataset
    found = {
        (seed, state, place_name(run)): None
        for run in runs
        if run.facts.origin
        for seed, state in run.facts.origin.held_back or ()
        if seed not in counted or state.startswith(_FINAL)
    }
    return [Gap("", title, dataset, seed, "held back", state, place) for seed, state, place in sorted(found)]


def lost_elsewhere(runs: Iterable[Run]) -> list[Gap]:
    """Return what the files of imported runs say was begun of networks that have no row there, each once."""
    found = {
        (title, seed, state, place_name(run)): run.facts.job.dataset
        for run in runs
        if run.facts.origin
        for title, seed, state in run.facts.origin.lost
    }
    return [
        Gap("", title, dataset, seed, "held back", state, place)
        for (title, seed, state, place), dataset in sorted(found.items())
    ]
