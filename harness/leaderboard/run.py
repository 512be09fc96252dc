"""A finished run on the board, and what runs that may be averaged have in common."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from harness.journal import FinishedRun, Journal, Outcome, RunResult, verify_outcome
from harness.spec import RECIPE_FIELDS, Job


@dataclass(frozen=True)
class Run:
    """A finished run: its journal and the facts read from it."""

    journal: Journal
    facts: FinishedRun

    @property
    def seed(self) -> int:
        """The seed it was trained from."""
        return self.facts.job.seed

    @property
    def result(self) -> RunResult:
        """Its result."""
        return self.facts.result

    @property
    def losses(self) -> list[float]:
        """The training loss of each epoch; no two seeds share all of them."""
        return [epoch.train_loss for epoch in self.facts.epochs]

    @property
    def test(self) -> Outcome:
        """The final test pass, read at each access: those of ten thousand runs would not fit into memory.

        Raises:
            DataError: it cannot be read, or is not consistent with the run.
        """
        return verify_outcome(self.journal, self.facts)

    @cached_property
    def correct(self) -> np.ndarray:
        """Which test images it classifies correctly: (images,) bool.

        Raises:
            DataError: its predictions cannot be read, or are not consistent with the run.
        """
        test = self.test
        right: np.ndarray = test.answers == test.labels
        return right


def identity(job: Job) -> str:
    """Return a text that is equal for runs that may be averaged: file, knobs, recipe, dataset and protocol."""
    recipe = [getattr(job.recipe, name) for name in RECIPE_FIELDS]
    return json.dumps([job.sha256, dict(job.knobs), recipe, job.dataset_digest, job.protocol], sort_keys=True)
