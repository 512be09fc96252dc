"""Trials proposed in batches by Optuna's samplers, from the scores of earlier batches alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from harness import plugins
from harness.errors import ContractError, HarnessError
from harness.events import Trial
from harness.runs import jobs
from harness.spec import BUDGET, Job, Knob, Study
from harness.training import derive_seed
from harness.tuning.search import Search

FIRST_SEED = 1_000_000
"""Trial n trains from seed `FIRST_SEED` + n, which no run begins with unless asked to."""

STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "infeasible": TrialState.PRUNED,  # its constraint teaches the sampler, which passes over failed trials
    "diverged": TrialState.FAIL,
    "failed": TrialState.FAIL,
}


@dataclass(frozen=True)
class Proposal:
    """A trial as asked: what Optuna drew, what the study made of it, and the job or why there is none."""

    number: int
    drawn: optuna.Trial
    settings: dict[str, Knob]
    job: Job | None
    error: HarnessError | None

    @property
    def key(self) -> str:
        """Equal for trials that would train the same network by the same recipe."""
        return json.dumps([dict(self.job.knobs), asdict(self.job.recipe)], sort_keys=True) if self.job else ""


class Proposer:
    """Asks for the trials of one batch after the other, of somebody who knows the scores of earlier batches alone.

    In memory: what is asked again gives the same answer, so only what is finished need be kept.

    Attributes:
        first: number of the batch's first trial.
    """

    def __init__(self, search: Search, told: Sequence[FrozenTrial]) -> None:
        self._search = search
        self._live = create_study(InMemoryStorage(), "live")
        self.first = len(told) // search.batch * search.batch
        self._live.add_trials(_bare(trial) for trial in told[: self.first])
        self._asked: list[Proposal] = []

    def ask(self, count: int) -> list[Proposal]:
        """Return the first `count` trials of this batch."""
        while len(self._asked) < count:
            self._asked.append(_suggest(self._search, self._live, self.first + len(self._asked)))
        return self._asked[:count]

    def tell(self, trials: Sequence[Trial]) -> None:
        """Make a batch known, if it is whole, and turn to the next."""
        if len(trials) < self._search.batch:
            return
        for asked, trial in zip(self._asked, trials, strict=True):
            for epoch in trial.epochs:
                asked.drawn.report(epoch.held_out_accuracy or 0.0, epoch.number)
            for name, value in constraints_of(trial).items():
                asked.drawn.set_constraint(name, value)
            self._live.tell(asked.drawn, value_of(trial), STATES[trial.state])
        self.first += len(trials)
        self._asked = []


def _bare(told: FrozenTrial) -> FrozenTrial:
    """Return what a sampler looks at: every trial that is added is copied whole."""
    return create_trial(
        state=told.state,
        value=told.value,
        params=told.params,
        distributions=told.distributions,
        intermediate_values=told.intermediate_values,
        constraints=told.constraints,
    )


def value_of(trial: Trial) -> float | None:
    """Return what Optuna is told of a trial: the score of a complete one."""
    return trial.value if trial.state == "complete" else None


def constraints_of(trial: Trial) -> dict[str, float]:
    """Return what must not be above zero; of a network that could not be counted, by how little it may have failed."""
    untrained = trial.state == "infeasible"
    return {"parameters": (trial.parameters or BUDGET.parameters + untrained) - BUDGET.parameters}


def _suggest(search: Search, live: optuna.Study, number: int) -> Proposal:
    live.sampler = _sampler(search, number)
    trial = live.ask()
    settings: dict[str, Knob] = {}
    job, error = None, None
    try:
        settings = plugins.suggest(search.study, trial)
        _refuse_choices(search.study, trial)
        fixed: dict[str, Knob] = {} if search.epochs is None else {"epochs": search.epochs}
        architecture = search.study.architecture
        knobs, recipe = plugins.apply_settings(architecture, {**fixed, **settings})
        seed = FIRST_SEED + number
        job = jobs(architecture, knobs, recipe, search.dataset, range(seed, seed + 1), search.device, "validation")[0]
    except HarnessError as caught:
        error = caught
    return Proposal(number, trial, settings, job, error)


def _refuse_choices(study: Study, trial: optuna.Trial) -> None:
    """Optuna stores a choice as JSON, and tells two apart by their hash."""
    for name, distribution in trial.distributions.items():
        for choice in getattr(distribution, "choices", ()):
            if type(choice) not in (bool, int, float, str, type(None)):
                raise ContractError(
                    "suggest",
                    f"suggest_categorical('{name}') has a choice of type {type(choice).__name__}.",
                    where=study.path,
                    allowed="Legal: numbers, texts, True, False and None.",
                    hint="Offer names, and look up what they stand for: {'small': (8, 0.1)}[choice].",
                )


def _sampler(search: Search, number: int) -> BaseSampler:
    seed = derive_seed(search.seed, number, "sampler") % 2**32  # as much as numpy's generator takes
    return TPESampler(seed=seed) if search.sampler == "tpe" else RandomSampler(seed=seed)


def create_study(storage: BaseStorage, name: str) -> optuna.Study:
    """Open Optuna's study of this name, or create it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
