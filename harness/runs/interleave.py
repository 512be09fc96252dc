"""Several runs on one device, in turns."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TypeVar

import torch

Item = TypeVar("Item")


def interleave(runs: Sequence[Iterator[Item | None]], at_once: int, device: str) -> Generator[tuple[int, Item]]:
    """Let `at_once` runs take turns, the next one beginning when one ends; hand on what each yields, with its place.

    A turn ends where a run yields None: its work is queued, and on a GPU it goes on while others have their
    turns, as each run has a stream of its own.

    Raises:
        Exception: the first that a run raised, when those that had begun by then are done; no other begins.
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
