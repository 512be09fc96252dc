"""Interleaves several runs on one device."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TypeVar

import torch

Item = TypeVar("Item")


def interleave(runs: Sequence[Iterator[Item | None]], at_once: int, device: str) -> Generator[tuple[int, Item]]:
    """Let `at_once` runs take turns and yield what each yields, with its index; a new run starts when one ends.

    A run ends its turn by yielding None: its work is queued. On a GPU each run has a stream of its own, so that work
    continues during the turns of other runs.

    Args:
        device: ``cpu`` or ``cuda``.

    Raises:
        Exception: the first error of a run, once all runs that had started by then are done; no further run starts.
    """
    waiting, working = deque(enumerate(runs)), deque[tuple[int, Iterator[Item | None], _Context]]()
    broken: Exception | None = None
    with contextlib.ExitStack() as open_runs:
        for run in runs:
            if isinstance(run, Generator):
                open_runs.callback(run.close)
        while waiting or working:
            if waiting and len(working) < at_once:
                working.appendleft((*waiting.popleft(), _own_stream(device)))
            place, run, on_its_stream = working.popleft()
            found: list[Item] = []
            try:
                with on_its_stream():
                    for item in run:
                        if item is None:
                            working.append((place, run, on_its_stream))
                            break
                        found.append(item)
            except Exception as error:
                broken = broken or error
                waiting.clear()
            yield from ((place, item) for item in found)
    if broken:
        raise broken


_Context = Callable[[], contextlib.AbstractContextManager[object]]


def _own_stream(device: str) -> _Context:
    if device != "cuda":
        return contextlib.nullcontext
    stream = torch.cuda.Stream()
    return lambda: torch.cuda.stream(stream)
