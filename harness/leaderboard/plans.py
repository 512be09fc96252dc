"""Planned comparisons: two networks and their seeds, written down before any run of them is trained.

A pair that is picked from a board, one of many possible pairs, looks more different than it is. A plan fixes the pair
and the number of seeds first, and uses seeds that neither network was ever trained from. So its p-value needs no
adjustment for other pairs.

A network that was scored before may have been picked for its luck with the test images, and new seeds are scored on
the same images. So a plan adjusts for every network scored by then or, if both were scored, for every pair of them.

    mlruns/plans/ID.json   one file for each plan, which is never changed
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
from harness.journal import DAMAGE, Journal, Record, begun
from harness.leaderboard.row import identity, row_key
from harness.spec import MOST_SEEDS, Job
from harness.statistics import FEWEST

_FACTS = ("name", "path", "sha256", "knobs", "recipe", "dataset", "dataset_digest", "protocol")


@dataclass(frozen=True)
class Plan:
    """A planned comparison.

    Attributes:
        id: a hash of the two networks and the number of seeds, so the same plan is not written twice.
        first, count: both networks are trained from `count` seeds, starting with `first`.
        written: milliseconds since 1970.
        among: number of plans that could have been chosen for scores known by then; 1 if neither network was scored.
        earlier: number of earlier plans of the same two networks.
    """

    id: str
    first: int
    count: int
    written: int
    among: int
    earlier: int

    @property
    def seeds(self) -> range:
        """The seeds that both networks are trained from."""
        return range(self.first, self.first + self.count)

    def adjust(self, p: float) -> float:
        """Return a p-value adjusted for the selection of the pair and for its earlier plans.

        Each plan of a pair has half the level of the one before, so the verdict of an earlier plan stays valid.
        """
        return min(p * self.among * 2**self.earlier, 1.0)


def write_down(a: Job, b: Job, count: int, journals: Iterable[Journal]) -> Plan:
    """Return the plan that compares two networks with `count` new seeds each; write it first if it does not exist.

    Args:
        a, b: a job of each network; their seeds do not matter.
        journals: all journals of this machine.

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
            started = [*_started(journals)]
            taken = {run.job.seed for network, run in started if network in both}
            rows = {row_key(a), row_key(b)}
            taken.update(entry.begun.seed for entry in begun.read().runs.values() if entry.begun.row in rows)
            taken.update(seed for plan in known for seed in range(plan["first"], plan["first"] + plan["count"]))
            scored = {network for network, run in started if run.epochs and _is_beside(run, a)}
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
    """Return the first of `count` consecutive seeds that are not taken."""
    first = 0
    for seed in sorted(taken):
        if seed >= first + count:
            break
        first = seed + 1
    return first


def _among(scored: Collection[str], both: Sequence[str]) -> int:
    """Return the number of pairs from which these two may have been picked by the scores known so far."""
    known = sum(network in scored for network in both)
    return (1, len(scored), math.comb(len(scored), 2))[known]


def _is_beside(run: Record, other: Job) -> bool:
    """Return whether a run is scored on the same images as another job."""
    return (run.job.dataset_digest, run.job.held_out) == (other.dataset_digest, other.held_out)


def files() -> list[Path]:
    """Return the files of all plans."""
    return sorted((journal.ROOT.absolute() / "plans").glob("*.json"))


_NUMBERS = {
    "first": (0, 2**62),
    "count": (FEWEST, MOST_SEEDS),
    "written": (0, 2**53),
    "among": (1, 2**62),
    "earlier": (0, 1_000),
}
"""The numbers of a plan, each with its allowed range."""


def read(file: Path) -> dict[str, Any]:
    """Return a plan as written.

    Raises:
        DataError: the file is damaged.
    """
    try:
        plan: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        numbers = all(type(plan[name]) is int and low <= plan[name] <= high for name, (low, high) in _NUMBERS.items())
        if not numbers or not plan["id"] == file.stem == _id(plan["networks"], plan["count"]):
            raise ValueError(file)
    except (*DAMAGE, RecursionError) as error:
        raise DataError(
            f"{file} is damaged.",
            allowed="A plan fixes the seeds in advance; without it the comparison is not a planned one.",
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


def _started(journals: Iterable[Journal]) -> Iterator[tuple[str, Record]]:
    """Yield the identity of the network and the record of every run that was ever started."""
    for each in journals:
        try:
            if (record := each.read()) and type(record.job.seed) is int:
                yield identity(record.job), record
        except Exception:  # a damaged line can raise anything; such a run counts nowhere
            continue
