"""The interface between a study and the workers that train its trials."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, Self

from harness.events import Epoch, Trial
from harness.runs import Started, TrialRequest


@dataclass(frozen=True)
class News:
    """A progress report of a training.

    Attributes:
        number: the number of the trial, or the seed of a run.
        event: the start, or the epoch that has just finished.
        epochs: number of epochs of the training.
        worker: name of the worker, for display.
    """

    number: int
    event: Started | Epoch
    epochs: int
    worker: str


class Workers(Protocol):
    """What the driver of a study needs from its workers; local processes and a cluster both implement it.

    Attributes:
        together: number of trials in one submission, which are trained in turns.
    """

    together: int

    def __enter__(self) -> Self:
        """Start the workers."""

    def __exit__(self, *_: object) -> None:
        """Stop the workers; unfinished trials are lost."""

    def submit(self, requests: Sequence[TrialRequest], medians: Mapping[int, float]) -> Future[list[Trial]]:
        """Queue at most `together` trials for the next free worker.

        Args:
            medians: by epoch, the accuracy below which a trial is pruned.
        """

    def wait(self, running: Iterable[Future[Any]], seconds: float) -> set[Future[Any]]:
        """Return the finished futures as soon as there is one, or an empty set after `seconds`, or sooner."""

    def news(self) -> list[News]:
        """Return the progress reports since the last call."""

    def why_lost(self, done: Future[Any]) -> str | None:
        """Return why the worker of these trials died, or None if it did not."""
