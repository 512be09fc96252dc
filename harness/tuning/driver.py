"""The driver of a study: proposes trials in batches, has them trained by workers, and logs them.

A study is a log of finished trials in the order of their numbers. The sampler that proposes trial n sees the finished
trials of earlier batches and the proposals before n in its own batch, and draws from a seed derived from n; pruning
compares a trial with earlier batches only. So neither the order in which trials finish, nor the number of workers, nor
an interruption changes a study.
"""

from __future__ import annotations

import time
from collections.abc import Generator

from harness.errors import CrashedError
from harness.events import StudyRecord, Trial
from harness.tuning.batch import FAILURES_TO_STOP, Batch
from harness.tuning.log import Log, alone
from harness.tuning.propose import Proposer
from harness.tuning.search import COUNTED, Search
from harness.workers import News, Workers


def tune(
    search: Search, trials: int, workers: Workers, timeout: float | None = None
) -> Generator[News | Trial | StudyRecord]:
    """Continue a study until it has `trials` finished trials.

    Yields progress, each trial as it finishes, and the study before the first and after every batch.

    Args:
        workers: train the trials; started and stopped by this call.
        timeout: seconds after which running trials are abandoned; the next call trains them again.

    Raises:
        ContractError: the first suggestion of the study raises or is not a dict.
        UsageError: that suggestion is not allowed for the architecture, or another process is working on this study.
        DataError: the study's log is damaged.
        CrashedError: `FAILURES_TO_STOP` trials in a row failed.
    """
    deadline = time.monotonic() + timeout if timeout is not None else None
    if (error := Proposer(search, []).ask(1)[0].error) is not None:
        raise error
    with alone(search), workers as pool:
        log = Log.begin(search, trials)
        proposer = Proposer(search, log.study.trials)
        yield log.record(is_running=True)
        while (missing := trials - sum(trial.state in COUNTED for trial in log.trials)) > 0:
            logged = len(log.trials) - proposer.first
            batch = Batch(search, log, proposer.ask(min(search.batch, logged + missing))[logged:], proposer.first)
            yield from batch.train(pool, deadline)
            proposer.tell(log.trials[proposer.first :])
            yield log.record(is_running=True)
            if log.failures_in_a_row == FAILURES_TO_STOP:
                raise CrashedError(
                    f"{log.failures_in_a_row} trials in a row failed, the last one: {log.trials[-1].reason}",
                    allowed=f"The study is saved in {log.folder}.",
                    hint="Fix the architecture or the ranges of the study, then run the same command again to resume.",
                )
            if batch.pending:
                return
