"""The trials of one batch: taken from the log, trained, and logged in the order of their numbers."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace

from harness import watchdog
from harness.errors import CrashedError, HarnessError
from harness.events import Trial
from harness.spec import Job
from harness.tuning.log import Log
from harness.tuning.propose import Proposal
from harness.tuning.search import Search
from harness.workers import News, Workers

STARTUP = 5
"""Complete trials of earlier batches before any is pruned; Optuna's median pruner has the same number."""

MOST_LOSSES = 5
"""Failed or diverged trials in a row after which a study stops."""


class Batch:
    """The trials of one batch that are still to be told.

    Attributes:
        untold: those that are not finished, and those after them.
    """

    def __init__(self, search: Search, log: Log, asked: Sequence[Proposal], earlier: int) -> None:
        self.pending = deque(asked)
        self._log = log
        self._median_by_epoch = _median_by_epoch(log.trials[:earlier]) if search.pruner == "median" else {}
        self._done: dict[int, Trial] = {}

    def train(self, workers: Workers, deadline: float | None) -> Iterator[News | Trial]:
        """Have trained what is not known yet, yielding epochs and trials as they finish.

        Stop at the deadline, and at `MOST_LOSSES`.
        """
        originals: dict[str, int] = {}
        fresh: list[tuple[Proposal, Job]] = []
        repeated: list[Proposal] = []
        for asked in [*self.pending]:
            if (cached := self._log.cached(asked)) is not None:
                yield self._finish(cached)
            elif asked.job is None:
                reason = " ".join(asked.error.lines) if asked.error else ""
                yield self._finish(Trial(asked.number, "failed", None, asked.settings, reason=reason))
            elif asked.key in self._log.known:
                yield self._finish(_copied(asked, self._log.known[asked.key]))
            elif asked.key in originals:
                repeated.append(asked)
            else:
                originals[asked.key] = asked.number
                fresh.append((asked, asked.job))
        running: dict[Future[list[Trial]], list[tuple[Proposal, Job]]] = {}
        together = workers.together
        waiting = [fresh[first : first + together] for first in range(0, len(fresh), together)]
        while running or waiting:
            if self._log.losses == MOST_LOSSES:
                return
            for group in waiting:
                given = [(asked.number, asked.settings, job) for asked, job in group]
                running[workers.submit(given, self._median_by_epoch)] = group
            waiting = []
            left = math.inf if deadline is None else max(deadline - time.monotonic(), 0)
            with watchdog.paused():
                done = workers.wait(running, left)
            yield from workers.news()
            for future in done:
                group = running.pop(future)
                lost = workers.why_lost(future)
                if lost and len(group) > 1:
                    waiting += [[one] for one in group]  # one took the others along: alone it takes itself
                else:
                    yield from (self._finish(trial) for trial in _outcomes([asked for asked, _ in group], future, lost))
            if not done and left == 0:
                return
        for asked in repeated:
            yield self._finish(_copied(asked, self._done[originals[asked.key]]))

    def _finish(self, trial: Trial) -> Trial:
        """Keep a trial, and tell what is finished in the order of the numbers: the log has no gaps."""
        self._log.cache(trial)
        self._done[trial.number] = trial
        while self.pending and self.pending[0].number in self._done and self._log.losses < MOST_LOSSES:
            asked = self.pending.popleft()
            self._log.tell(asked, self._done[asked.number])
        return trial


def _copied(asked: Proposal, known: Trial) -> Trial:
    return replace(known, number=asked.number, settings=asked.settings, same_as=known.number)


def _outcomes(group: Sequence[Proposal], future: Future[list[Trial]], lost: str | None) -> list[Trial]:
    """Return how these trials ended.

    Raises:
        HarnessError: something is wrong with the machine, not with the trials: nothing of it is kept.
    """
    if lost:
        return [Trial(asked.number, "failed", None, asked.settings, reason=lost) for asked in group]
    try:
        return future.result()
    except HarnessError:
        raise
    except Exception as error:  # whatever a worker could not do, or not send back
        raise CrashedError(
            f"Trial {group[0].number} could not be trained: {type(error).__name__}: {error}.",
            allowed="That is not held against its settings. What is finished is kept.",
            hint="Look at the machine that was to train it; the same command goes on.",
        ) from error


def _median_by_epoch(trials: Sequence[Trial]) -> dict[int, float]:
    """Return, by epoch, the median accuracy of complete trials: whoever is below it there is stopped.

    Golovin et al. 2017 (Google Vizier), section 3.2.2, as in Optuna's median pruner.
    """
    complete = [trial for trial in trials if trial.state == "complete"]
    if len(complete) < STARTUP:
        return {}
    by_epoch: dict[int, list[float]] = {}
    for trial in complete:
        for epoch in trial.epochs:
            by_epoch.setdefault(epoch.number, []).append(epoch.held_out_accuracy or 0.0)
    return {number: statistics.median(values) for number, values in by_epoch.items()}
