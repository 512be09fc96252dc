"""Proposes trials in batches with Optuna's samplers, from the scores of earlier batches only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from harness import plugins
from harness.errors import HarnessError
from harness.events import Trial
from harness.runs import jobs
from harness.spec import BUDGET, Job, Knob
from harness.training import derive_seed
from harness.tuning.search import Search

FIRST_SEED = 1_000_000
"""Trial n trains from seed `FIRST_SEED` + n, so trials and runs use different seeds by default."""

STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "infeasible": TrialState.PRUNED,  # so that the sampler uses its constraint; it ignores failed trials
    "diverged": TrialState.FAIL,
    "failed": TrialState.FAIL,
}


@dataclass(frozen=True)
class Proposal:
    """A proposed trial.

    Attributes:
        drawn: Optuna's trial.
        settings: what the study suggested.
        job: the training; None if the settings are not allowed.
        error: why there is no job.
    """

    number: int
    drawn: optuna.Trial
    settings: dict[str, Knob]
    job: Job | None
    error: HarnessError | None

    @property
    def key(self) -> str:
        """A text that is equal for trials that train the same network by the same recipe; empty without a job."""
        return json.dumps([dict(self.job.knobs), asdict(self.job.recipe)], sort_keys=True) if self.job else ""


class Proposer:
    """Proposes the trials of one batch after the other; the sampler knows the scores of earlier batches only.

    It works in memory: proposing again gives the same trials, so only finished trials need be stored.

    Attributes:
        first: number of the first trial of the current batch.
    """

    def __init__(self, search: Search, finished: Sequence[FrozenTrial]) -> None:
        """Start at the first batch that is not complete.

        Args:
            finished: the trials of the study's log.
        """
        self._search = search
        self._live = create_study(InMemoryStorage(), "live")
        self.first = len(finished) // search.batch * search.batch
        self._live.add_trials(_bare(trial) for trial in finished[: self.first])
        self._proposed: list[Proposal] = []

    def ask(self, count: int) -> list[Proposal]:
        """Return the first `count` proposals of the current batch."""
        while len(self._proposed) < count:
            self._proposed.append(_suggest(self._search, self._live, self.first + len(self._proposed)))
        return self._proposed[:count]

    def tell(self, trials: Sequence[Trial]) -> None:
        """Report a whole batch to the sampler and start the next one; do nothing if the batch is partial."""
        if len(trials) < self._search.batch:
            return
        for proposal, trial in zip(self._proposed, trials, strict=True):
            for epoch in trial.epochs:
                proposal.drawn.report(epoch.held_out_accuracy or 0.0, epoch.number)
            for name, value in constraints_of(trial).items():
                proposal.drawn.set_constraint(name, value)
            self._live.tell(proposal.drawn, value_of(trial), STATES[trial.state])
        self.first += len(trials)
        self._proposed = []


def _bare(trial: FrozenTrial) -> FrozenTrial:
    """Return a trial without its attributes: a sampler does not need them, and adding a trial copies all of it."""
    return create_trial(
        state=trial.state,
        value=trial.value,
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values=trial.intermediate_values,
        constraints=trial.constraints,
    )


def value_of(trial: Trial) -> float | None:
    """Return the value reported to Optuna: the score of a complete trial, else None."""
    return trial.value if trial.state == "complete" else None


def constraints_of(trial: Trial) -> dict[str, float]:
    """Return the constraint for Optuna: parameters above the budget; 1 if the network was refused without a count."""
    untrained = trial.state == "infeasible"
    return {"parameters": (trial.parameters or BUDGET.parameters + untrained) - BUDGET.parameters}


def _suggest(search: Search, live: optuna.Study, number: int) -> Proposal:
    live.sampler = _sampler(search, number)
    trial = live.ask()
    settings: dict[str, Knob] = {}
    job, error = None, None
    try:
        settings = plugins.suggest(search.study, trial)
        fixed: dict[str, Knob] = {} if search.epochs is None else {"epochs": search.epochs}
        architecture = search.study.architecture
        knobs, recipe = plugins.apply_settings(architecture, {**fixed, **settings})
        seed = FIRST_SEED + number
        job = jobs(architecture, knobs, recipe, search.dataset, range(seed, seed + 1), search.device, "validation")[0]
    except HarnessError as caught:
        error = caught
    return Proposal(number, trial, settings, job, error)


def _sampler(search: Search, number: int) -> BaseSampler:
    seed = derive_seed(search.seed, number, "sampler") % 2**32  # the range of numpy's seeds
    return TPESampler(seed=seed) if search.sampler == "tpe" else RandomSampler(seed=seed)


def create_study(storage: BaseStorage, name: str) -> optuna.Study:
    """Open Optuna's study of this name, or create it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
