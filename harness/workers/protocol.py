"""What a study needs from the workers that train its trials."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, Self

from harness.events import Epoch, Trial
from harness.runs import Started, TrialRequest


@dataclass(frozen=True)
class News:
    """How far a training has come.

    Attributes:
        number: the trial's, or of a run its seed.
        event: what is known before its first step, or the epoch it has just finished.
        epochs: how many it is to train.
        worker: where, in words.
    """

    number: int
    event: Started | Epoch
    epochs: int
    worker: str


class Workers(Protocol):
    """What a study asks of whoever trains its trials.

    Attributes:
        together: how many trials it hands over at once, to be trained in turns.
    """

    together: int

    def __enter__(self) -> Self:
        """Begin to work."""

    def __exit__(self, *_: object) -> None:
        """Give up what is not finished."""

    def submit(self, asked: Sequence[TrialRequest], medians: Mapping[int, float]) -> Future[list[Trial]]:
        """Have at most `together` trials trained, when somebody is free."""

    def wait(self, running: Iterable[Future[Any]], seconds: float) -> set[Future[Any]]:
        """Return what is done, as soon as there is any, or nothing after `seconds`."""

    def news(self) -> list[News]:
        """Return what has come in since the last call."""

    def why_lost(self, done: Future[Any]) -> str | None:
        """Say what ended whoever was to train these trials; None where that ended in good order."""
