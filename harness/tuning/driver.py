"""Studies: one driver asks and tells, whoever trains. The only room that knows optuna.

A study is a log of finished trials in the order of their numbers. Trial n is asked for by somebody who
sees the finished trials of earlier batches and the unfinished ones before it in its own batch, with a
seed that follows from n; it is pruned against earlier batches alone. So neither the order in which trials
finish, nor how many run at a time, nor an interruption changes a study.
"""

from __future__ import annotations

import time
from collections.abc import Generator

from harness.errors import CrashedError
from harness.events import StudyRecord, Trial
from harness.tuning.batch import MOST_LOSSES, Batch
from harness.tuning.log import Log, alone
from harness.tuning.propose import Proposer
from harness.tuning.search import COUNTED, Search
from harness.workers import News, Workers


def tune(
    search: Search, trials: int, workers: Workers, timeout: float | None = None
) -> Generator[News | Trial | StudyRecord]:
    """Continue a study until `trials` are finished; yield each as it finishes, and the study after every batch.

    Args:
        workers: who trains the trials; they work from here to the end.
        timeout: seconds after which running trials are given up, to be trained again by the next call.

    Raises:
        ContractError: the first suggestion of the study raises or is not a dict.
        UsageError: it is not legal for the architecture, or another process is at work on this study.
        DataError: the study's log is damaged.
        CrashedError: `MOST_LOSSES` trials in a row were lost.
    """
    deadline = time.monotonic() + timeout if timeout is not None else None
    if (error := Proposer(search, []).ask(1)[0].error) is not None:
        raise error
    with alone(search), workers as hired:
        log = Log.begin(search, trials)
        asking = Proposer(search, log.study.trials)
        yield log.record(is_running=True)
        while (missing := trials - sum(trial.state in COUNTED for trial in log.trials)) > 0:
            told = len(log.trials) - asking.first
            batch = Batch(search, log, asking.ask(min(search.batch, told + missing))[told:], asking.first)
            yield from batch.train(hired, deadline)
            asking.tell(log.trials[asking.first :])
            yield log.record(is_running=True)
            if log.losses == MOST_LOSSES:
                raise CrashedError(
                    f"{log.losses} trials in a row were lost, the last one: {log.trials[-1].reason}",
                    allowed=f"The study is kept in {log.folder}.",
                    hint="Mend the architecture or the ranges of the study; the same command goes on.",
                )
            if batch.pending:
                return
