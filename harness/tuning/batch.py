"""One batch of trials: taken from the log or trained, and logged in the order of their numbers."""

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
"""Complete trials of earlier batches that pruning needs; the same number as in Optuna's median pruner."""

FAILURES_TO_STOP = 5
"""Failed or diverged trials in a row after which a study stops."""


class Batch:
    """The trials of one batch that are not logged yet.

    Attributes:
        pending: the proposals from the first unfinished one on.
    """

    def __init__(self, search: Search, log: Log, proposals: Sequence[Proposal], earlier: int) -> None:
        """Start with the proposals that the log lacks; pruning uses the first `earlier` trials of the log."""
        self.pending = deque(proposals)
        self._log = log
        self._median_by_epoch = _median_by_epoch(log.trials[:earlier]) if search.pruner == "median" else {}
        self._done: dict[int, Trial] = {}

    def train(self, workers: Workers, deadline: float | None) -> Iterator[News | Trial]:
        """Train the trials whose outcome is not known, yielding progress and trials as they finish.

        Stop at the deadline (of `time.monotonic`), or when `FAILURES_TO_STOP` trials in a row have failed.
        """
        originals: dict[str, int] = {}
        fresh: list[tuple[Proposal, Job]] = []
        repeated: list[Proposal] = []
        for proposal in [*self.pending]:
            if (cached := self._log.cached(proposal)) is not None:
                yield self._finish(cached)
            elif proposal.job is None:
                reason = " ".join(proposal.error.lines) if proposal.error else ""
                yield self._finish(Trial(proposal.number, "failed", None, proposal.settings, reason=reason))
            elif proposal.key in self._log.known:
                yield self._finish(_copied(proposal, self._log.known[proposal.key]))
            elif proposal.key in originals:
                repeated.append(proposal)
            else:
                originals[proposal.key] = proposal.number
                fresh.append((proposal, proposal.job))
        running: dict[Future[list[Trial]], list[tuple[Proposal, Job]]] = {}
        together = workers.together
        waiting = [fresh[first : first + together] for first in range(0, len(fresh), together)]
        while running or waiting:
            if self._log.failures_in_a_row == FAILURES_TO_STOP:
                return
            for group in waiting:
                given = [(proposal.number, proposal.settings, job) for proposal, job in group]
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
                    waiting += [[one] for one in group]  # one of them ended the process: alone it loses no other
                else:
                    proposals = [proposal for proposal, _ in group]
                    yield from (self._finish(trial) for trial in _outcomes(proposals, future, lost))
            if not done and left == 0:
                return
        for proposal in repeated:
            yield self._finish(_copied(proposal, self._done[originals[proposal.key]]))

    def _finish(self, trial: Trial) -> Trial:
        """Cache a trial, and log finished trials in the order of their numbers, so that the log has no gaps."""
        self._log.cache(trial)
        self._done[trial.number] = trial
        while self.pending and self.pending[0].number in self._done and self._log.failures_in_a_row < FAILURES_TO_STOP:
            proposal = self.pending.popleft()
            self._log.tell(proposal, self._done[proposal.number])
        return trial


def _copied(proposal: Proposal, known: Trial) -> Trial:
    return replace(known, number=proposal.number, settings=proposal.settings, same_as=known.number)


def _outcomes(group: Sequence[Proposal], future: Future[list[Trial]], lost: str | None) -> list[Trial]:
    """Return the finished trials of one submission.

    Raises:
        HarnessError: the machine is at fault, not the trials; none of them is logged.
    """
    if lost:
        return [Trial(proposal.number, "failed", None, proposal.settings, reason=lost) for proposal in group]
    try:
        return future.result()
    except HarnessError:
        raise
    except Exception as error:  # a worker could not train it, or not send the result
        raise CrashedError(
            f"Trial {group[0].number} could not be trained: {type(error).__name__}: {error}.",
            allowed="The trial is not recorded as failed. Finished work is saved.",
            hint="Check the machine that was to train it, then run the same command again to resume.",
        ) from error


def _median_by_epoch(trials: Sequence[Trial]) -> dict[int, float]:
    """Return, by epoch, the median accuracy of complete trials; a trial below it is pruned.

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
