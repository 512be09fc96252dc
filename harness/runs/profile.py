"""Profiles one epoch of a recorded run, operator by operator."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import torch

from harness.events import Epoch
from harness.journal import PROFILE, journal_folder
from harness.runs.train import Event, Started

MOST = 12
"""Most operators that a profile lists."""


@dataclass(frozen=True)
class Operator:
    """The cost of one operator in an epoch: seconds on the computing device, without nested operators, and calls."""

    name: str
    seconds: float
    calls: int


@dataclass(frozen=True)
class Profile:
    """The profile of an epoch.

    Attributes:
        epoch: the number of the epoch.
        seconds: total over all operators.
        operators: the most expensive ones, in descending order.
        trace: file of the whole trace, for Perfetto or ``chrome://tracing``.
    """

    epoch: int
    seconds: float
    operators: tuple[Operator, ...]
    trace: Path


def profiled(events: Generator[Event | None], epochs: int) -> Generator[Event | Profile | None]:
    """Yield the events of a recorded job, and after the second epoch its `Profile`; of a single epoch, that one's.

    The whole trace is written beside the journal. The profile includes the scoring after the epoch.

    Args:
        events: of a recorded job.
        epochs: number of epochs of the job.
    """
    chosen = min(2, epochs)
    os.environ["KINETO_LOG_LEVEL"] = "99"  # it reports a missing GPU as an error
    profiler = torch.profiler.profile()
    with contextlib.closing(events), contextlib.ExitStack() as running:
        for event in events:
            profile = None
            if isinstance(event, Started):
                place = journal_folder() / event.run_id / PROFILE
            if isinstance(event, Epoch) and event.number == chosen:
                running.close()
                profiler.export_chrome_trace(str(place))
                profile = _summary(chosen, profiler, place)
            before = 0 if isinstance(event, Started) else event.number if isinstance(event, Epoch) else None
            if before == chosen - 1:
                profiler.start()
                running.callback(profiler.stop)  # also if the epoch is never finished
            yield event
            if profile:
                yield profile


def _summary(epoch: int, profiler: torch.profiler.profile, trace: Path) -> Profile:
    found = profiler.key_averages()
    kernels = [event for event in found if event.device_type.name == "CUDA"]
    spent = (
        [Operator(event.key, event.self_device_time_total / 1e6, event.count) for event in kernels]
        if kernels  # the operators that launched them report the same time again
        else [Operator(event.key, event.self_cpu_time_total / 1e6, event.count) for event in found]
    )
    spent.sort(key=lambda operator: -operator.seconds)
    return Profile(epoch, sum(operator.seconds for operator in spent), tuple(spent[:MOST]), trace)
