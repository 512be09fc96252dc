"""Planned comparisons: two networks and their seeds, written down before any of it is trained.

A pair that is picked on a board, where many could have been, looks more different than it is. A plan names the pair and
the number of seeds first, and takes seeds that neither network was ever trained from; so its p-value is its own.

A network that had been scored before may have been picked for its luck with the test images, which new seeds meet
again. So a plan allows for every network that had been scored by then, or, where both had been, for every pair of them.

    mlruns/plans/ID.json   one file a plan, which is never changed
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock

from harness import journal
from harness.errors import DataError
from harness.journal import DAMAGE, Journal, Record
from harness.leaderboard.row import identity
from harness.spec import Job
from harness.statistics import FEWEST

MOST_SEEDS = 1_000
"""Most seeds of a plan."""

_FACTS = ("name", "path", "sha256", "knobs", "recipe", "dataset", "dataset_digest", "protocol")


@dataclass(frozen=True)
class Plan:
    """A planned comparison.

    Attributes:
        id: of the two networks and the number of seeds: the same plan is not written twice.
        first, count: both networks are trained from the seeds `first` and up, `count` of them.
        written: milliseconds since 1970.
        among: how many plans could have been written for the look of what had been scored; 1 where nothing had.
        earlier: plans of the same two networks that had been written before.
    """

    id: str
    first: int
    count: int
    written: int
    among: int
    earlier: int

    @property
    def seeds(self) -> range:
        """What both networks are trained from."""
        return range(self.first, self.first + self.count)

    def adjust(self, p: float) -> float:
        """Allow in a p-value for what the pair may have been picked from, and for its earlier plans.

        Each plan of a pair has half the level of the one before, so that none changes what an earlier one has said.
        """
        return min(p * self.among * 2**self.earlier, 1.0)


def write_down(a: Job, b: Job, count: int, journals: Iterable[Journal]) -> Plan:
    """Write down the plan to compare two networks by `count` new seeds each, unless it is, and return it.

    Args:
        a, b: a job of each network; their seeds do not matter.
        journals: of all runs there are.

    Raises:
        DataError: the file of a plan is damaged.
    """
    both = sorted(identity(job) for job in (a, b))
    folder = journal.ROOT.absolute() / "plans"
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / "lock"):
        known = [plan for plan in map(read, files()) if plan["networks"] == both]
        found = next((plan for plan in known if plan["count"] == count), None)
        if found is None:
            begun = [*_begun(journals)]
            taken = {run.job.seed for network, run in begun if network in both}
            taken.update(seed for plan in known for seed in range(plan["first"], plan["first"] + plan["count"]))
            scored = {network for network, run in begun if run.epochs and _is_beside(run, a)}
            found = {
                "id": _id(both, count),
                "networks": both,
                "first": _first_free(taken, count),
                "count": count,
                "written": round(time.time() * 1000),
                "among": _among(scored, both),
                "earlier": len(known),
                **{side: {name: asdict(job)[name] for name in _FACTS} for side, job in (("a", a), ("b", b))},
            }
            _keep(found)
    return Plan(**{name: found[name] for name in ("id", *_NUMBERS)})


def _id(networks: Sequence[str], count: int) -> str:
    return hashlib.sha256(json.dumps([*networks, count]).encode()).hexdigest()[:12]


def _first_free(taken: Collection[int], count: int) -> int:
    """Return the first of so many seeds in a row that are not taken."""
    first = 0
    for seed in sorted(taken):
        if seed >= first + count:
            break
        first = seed + 1
    return first


def _among(scored: Collection[str], both: Sequence[str]) -> int:
    """Return from how many pairs these two may have been picked for the look of those that were scored."""
    known = sum(network in scored for network in both)
    return (1, len(scored), math.comb(len(scored), 2))[known]


def _is_beside(run: Record, other: Job) -> bool:
    """Whether a run is scored on the same images as another network."""
    return (run.job.dataset_digest, run.job.held_out) == (other.dataset_digest, other.held_out)


def files() -> list[Path]:
    """Return the file of every plan there is."""
    return sorted((journal.ROOT.absolute() / "plans").glob("*.json"))


_NUMBERS = {
    "first": (0, 2**62),
    "count": (FEWEST, MOST_SEEDS),
    "written": (0, 2**53),
    "among": (1, 2**62),
    "earlier": (0, 1_000),
}
"""The numbers of a plan, with the least and the most that each can be."""


def read(file: Path) -> dict[str, Any]:
    """Return a plan as it was written down.

    Raises:
        DataError: its file is damaged.
    """
    try:
        plan: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        numbers = all(type(plan[name]) is int and low <= plan[name] <= high for name, (low, high) in _NUMBERS.items())
        if not numbers or not plan["id"] == file.stem == _id(plan["networks"], plan["count"]):
            raise ValueError(file)
    except (*DAMAGE, RecursionError) as error:
        raise DataError(
            f"{file} is damaged.",
            allowed="A plan says which seeds were promised; without it a comparison is none.",
            hint="Restore the file, or move it away: a new plan takes new seeds.",
        ) from error
    return plan


def _keep(plan: dict[str, Any]) -> None:
    place = journal.ROOT.absolute() / "plans" / f"{plan['id']}.json"
    beside = place.with_suffix(".part")
    with beside.open("w", encoding="utf-8") as stream:
        json.dump(plan, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(beside, place)


def _begun(journals: Iterable[Journal]) -> Iterator[tuple[str, Record]]:
    """Yield the network and the record of every run that was ever begun."""
    for each in journals:
        try:
            if (record := each.read()) and type(record.job.seed) is int:
                yield identity(record.job), record
        except Exception:  # whatever a damaged line leads to: such a run counts nowhere
            continue
