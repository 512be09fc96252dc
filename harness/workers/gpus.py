"""The GPUs of a cluster's workers, and their shares of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, replace
from fractions import Fraction

GPU = "GPU"
"""The name of the resource that workers announce, as in Dask's documentation."""


@dataclass(frozen=True)
class WorkerInfo:
    """A worker, as it describes itself.

    Attributes:
        address: its Dask address.
        harness, torch: its versions.
        host: its machine.
        sees: the GPUs that it may use, as CUDA_VISIBLE_DEVICES names them; it trains on the first.
        gpus: the share of a GPU that it announces, or None if it announces nothing: then the driver assigns one.
        is_dealt: whether a driver assigned that share.
    """

    address: str
    harness: str
    torch: str
    host: str
    sees: tuple[str, ...]
    gpus: float | None
    is_dealt: bool


def shared_out(members: Collection[WorkerInfo]) -> list[WorkerInfo]:
    """Return the workers that announce no share, each with one of its GPUs and an equal share of what is left of it."""
    left: dict[tuple[str, str], Fraction] = defaultdict(lambda: Fraction(1))
    takers: dict[tuple[str, str], list[WorkerInfo]] = defaultdict(list)
    for member in members:
        if member.gpus is not None and member.sees:
            left[member.host, member.sees[0]] -= Fraction(member.gpus).limit_denominator(1_000)
    for member in sorted(members, key=lambda member: len(member.sees)):  # those with the fewest choices first
        if member.gpus is None:
            gpus = [(member.host, name) for name in member.sees]
            takers[max(gpus, key=lambda gpu: left[gpu] / (len(takers[gpu]) + 1))].append(member)
    return [
        replace(member, sees=(name,), gpus=max(0.0, float(left[host, name] / len(sharers))), is_dealt=True)
        for (host, name), sharers in takers.items()
        for member in sharers
    ]
