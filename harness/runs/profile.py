"""Where the time of training goes: one epoch of a recorded run, operator by operator."""

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
"""Operators worth a line."""


@dataclass(frozen=True)
class Operator:
    """What an epoch spent in one operator itself: seconds on the device that computes, and calls."""

    name: str
    seconds: float
    calls: int


@dataclass(frozen=True)
class Profile:
    """Where the time of an epoch went.

    Attributes:
        epoch: its number.
        seconds: in all operators.
        operators: those that took longest, the longest first.
        trace: the file that holds all of it, for Perfetto or ``chrome://tracing``.
    """

    epoch: int
    seconds: float
    operators: tuple[Operator, ...]
    trace: Path


def profiled(events: Generator[Event | None], epochs: int) -> Generator[Event | Profile | None]:
    """Hand on a recorded job's events; the second epoch (of one, the first) is profiled and followed by its `Profile`.

    The whole trace is kept beside the journal. The scoring after the epoch is in it.
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
                running.callback(profiler.stop)  # also where the epoch is never finished
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
