"""Trains the trials of a study in turns; an error in a trial becomes its state and reason."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from harness import watchdog
from harness.errors import BudgetError, DataError, DivergedError, HarnessError
from harness.events import Epoch, Trial, TrialState
from harness.runs.interleave import interleave
from harness.runs.shared_audits import is_awaited, take_audit
from harness.runs.train import Started, crash_of, train
from harness.spec import BUDGET, Job, Knob

LOOK_SECONDS = 0.002
"""Seconds that a trial sleeps each time it finds that its audit is not ready."""


TrialRequest = tuple[int, Mapping[str, Knob], Job]
"""A trial to train: its number, the suggested settings, and its job."""


OnEpoch = Callable[[int, Epoch], None]
"""Called with the number of a trial and the epoch that it has finished."""


def train_trials(
    requests: Sequence[TrialRequest], medians: Mapping[int, float], tell: OnEpoch, audits: Path | None = None
) -> list[Trial]:
    """Train trials in turns and return them by number; an error in a trial becomes its state and reason.

    Args:
        medians: by epoch, the accuracy below which a trial is pruned.
        tell: called after every epoch.
        audits: folder where other processes leave the audits of the trials; a trial whose audit is not there yet
            waits while others train.

    Raises:
        DataError: this machine lacks the images, which is no fault of a trial.
    """
    trials = interleave(
        [_train_trial(*one, medians, tell, audits) for one in requests], len(requests), requests[0][2].device
    )
    return [trial for _, trial in sorted(trials, key=lambda found: found[0])]


def _train_trial(
    number: int,
    settings: Mapping[str, Knob],
    job: Job,
    medians: Mapping[int, float],
    tell: OnEpoch,
    audits: Path | None,
) -> Iterator[Trial | None]:
    """Yield None when another trial may have a turn, and at the end the trial."""
    started = _now()
    epochs: list[Epoch] = []
    parameters: int | None = None

    def ended(state: TrialState, reason: str = "") -> Trial:
        value = epochs[-1].held_out_accuracy if epochs else None
        return Trial(number, state, value, settings, tuple(epochs), parameters, reason, started, _now())

    try:
        if audits:
            while is_awaited(audits, job):
                time.sleep(LOOK_SECONDS)
                yield None
            take_audit(audits, job)
        for event in train(job):
            watchdog.heartbeat()
            if event is None:
                yield None
            elif isinstance(event, Started):
                parameters = event.ledger.parameters
            elif isinstance(event, Epoch):
                epochs.append(event)
                tell(number, event)
                if event.number < job.recipe.epochs and _is_hopeless(epochs, medians):
                    yield ended("pruned", f"below the median of earlier trials after epoch {event.number}")
                    return
    except BudgetError as error:
        parameters = BUDGET.parameters + error.excess if error.rule == "parameters" else None
        yield ended("infeasible", error.message)
    except DivergedError as error:
        yield ended("diverged", error.message)
    except DataError:
        raise
    except HarnessError as error:
        yield ended("failed", " ".join(error.lines))
    except Exception as error:
        yield ended("failed", crash_of(job, error).message)
    else:
        yield ended("complete")


def _is_hopeless(epochs: Sequence[Epoch], medians: Mapping[int, float]) -> bool:
    best = max(epoch.held_out_accuracy or 0.0 for epoch in epochs)
    return best < medians.get(epochs[-1].number, -math.inf)


def _now() -> int:
    return round(time.time() * 1000)
