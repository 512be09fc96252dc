"""Planned comparisons: two networks and their seeds, written down before any of it is trained.

A pair that is picked on a board, where many could have been, looks more different than it is. A plan names the pair and
the number of seeds first, and takes seeds that neither network was ever trained from; so its p-value is its own.

Where both had been scored before, the pair may have been picked for its luck with the test images, which new seeds meet
again: such a plan allows for all pairs of networks that had been scored by then.

    mlruns/plans/ID.json   one file a plan, which is never changed
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness import journal, leaderboard
from harness.errors import DataError
from harness.journal import DAMAGE, Journal, Record
from harness.spec import Job

_FACTS = ("name", "path", "sha256", "knobs", "recipe", "dataset", "dataset_digest", "protocol")


@dataclass(frozen=True)
class Plan:
    """A planned comparison.

    Attributes:
        id: of the two networks and the number of seeds: the same plan is not written twice.
        first, count: both networks are trained from the seeds `first` and up, `count` of them.
        written: milliseconds since 1970.
        among: the pairs of networks that it may have been picked from; 1 unless both had been scored.
        plans: how many there are of these two networks by now.
    """

    id: str
    first: int
    count: int
    written: int
    among: int
    plans: int

    @property
    def seeds(self) -> range:
        """What both networks are trained from."""
        return range(self.first, self.first + self.count)


def write_down(a: Job, b: Job, count: int, journals: Iterable[Journal]) -> Plan:
    """Write down the plan to compare two networks by `count` new seeds each, unless it is, and return it.

    Args:
        a, b: a job of each network; their seeds do not matter.
        journals: of all runs there are.

    Raises:
        DataError: a plan of these two cannot be read.
    """
    both = sorted(leaderboard.identity(asdict(job)) for job in (a, b))
    identity = hashlib.sha256(json.dumps([*both, count]).encode()).hexdigest()[:12]
    known = [plan for plan in map(read, files()) if plan["networks"] == both]
    if identity not in [plan["id"] for plan in known]:
        begun = [*_begun(journals)]
        seeds = [run.job["seed"] for network, run in begun if network in both]
        scored = {network for network, run in begun if run.state == "finished" and _is_beside(run.job, a)}
        known.append(
            {
                "id": identity,
                "networks": both,
                "first": max([*seeds, *(plan["first"] + plan["count"] - 1 for plan in known)], default=-1) + 1,
                "count": count,
                "written": round(time.time() * 1000),
                "among": math.comb(len(scored), 2) if scored.issuperset(both) else 1,
                **{side: {name: asdict(job)[name] for name in _FACTS} for side, job in (("a", a), ("b", b))},
            }
        )
        _keep(known[-1])
    found = next(plan for plan in known if plan["id"] == identity)
    return Plan(identity, found["first"], found["count"], found["written"], found["among"], len(known))


def _is_beside(job: Mapping[str, Any], other: Job) -> bool:
    """Whether two networks are scored on the same images."""
    return job["dataset_digest"] == other.dataset_digest and job["held_out"] == other.held_out


def files() -> list[Path]:
    """Return the file of every plan there is."""
    return sorted((journal.ROOT.absolute() / "plans").glob("*.json"))


def read(file: Path) -> dict[str, Any]:
    """Return a plan as it was written down.

    Raises:
        DataError: its file is damaged.
    """
    try:
        plan: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        numbers = [plan[name] for name in ("first", "count", "written", "among")]
        if plan["id"] != file.stem or any(type(number) is not int or number < 0 for number in numbers):
            raise ValueError(file)
        [str(network) for network in plan["networks"]]
    except DAMAGE as error:
        raise DataError(
            f"{file} is damaged.",
            legal="A plan says which seeds were promised; without it a comparison is none.",
            mend="Restore the file, or move it away: a new plan takes new seeds.",
        ) from error
    return plan


def _keep(plan: dict[str, Any]) -> None:
    folder = journal.ROOT.absolute() / "plans"
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f"{plan['id']}.{os.getpid()}.part"
    with beside.open("w", encoding="utf-8") as stream:
        json.dump(plan, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(beside, folder / f"{plan['id']}.json")


def _begun(journals: Iterable[Journal]) -> Iterator[tuple[str, Record]]:
    """Yield the network and the record of every run that was ever begun."""
    for each in journals:
        try:
            if record := each.read():
                yield leaderboard.identity(record.job), record
        except Exception:  # whatever a damaged line leads to: such a run counts nowhere
            continue
