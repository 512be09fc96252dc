"""A finished run as its users see it: its journal and what is recorded there, with types."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.journal.journal import Journal
from harness.journal.outcome import Outcome, result_digest
from harness.journal.record import FinishedRun, RunResult
from harness.journal.verify import verify_outcome, verify_run

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        journal: its journal.
        facts: all that is recorded of it: job, network, environment, epochs, result.
    """

    journal: Journal
    facts: FinishedRun = field(compare=False, repr=False)

    @classmethod
    def of(cls, journal: Journal) -> Run:
        """Return the run of a journal.

        Raises:
            DataError: why it does not count.
        """
        return cls(journal, verify_run(journal))

    @property
    def path(self) -> Path:
        """The folder of its record."""
        return self.journal.folder

    @property
    def name(self) -> str:
        """What a person calls it: ``s6_gap width=12 seed 0``."""
        return self.facts.start.name

    @property
    def seed(self) -> int:
        """The seed it was trained from."""
        return self.facts.job.seed

    @property
    def result(self) -> RunResult:
        """Its result."""
        return self.facts.result

    @property
    def accuracy(self) -> float:
        """Its score: the test accuracy after the last epoch, as a fraction of 1."""
        return self.facts.result.accuracy

    @property
    def parameters(self) -> int:
        """Stored numbers of its network."""
        return self.facts.start.parameters

    @property
    def curve(self) -> pd.DataFrame:
        """A row an epoch: lr, losses, accuracies (fractions of 1), seconds; the index is the epoch's number."""
        import pandas  # deferred: the board does without

        frame = pandas.DataFrame([asdict(epoch) for epoch in self.facts.epochs]).set_index("number")
        names = {"held_out_loss": "test_loss", "held_out_accuracy": "test_accuracy"}
        return frame.rename(columns=names).rename_axis("epoch")

    @property
    def weights(self) -> dict[str, Tensor]:
        """The scored weights by name, on the CPU.

        Raises:
            FileNotFoundError: the run was imported, without weights.
        """
        return self.journal.weights()

    @property
    def losses(self) -> list[float]:
        """The training loss of each epoch; no two seeds share all of them."""
        return [epoch.train_loss for epoch in self.facts.epochs]

    @property
    def is_imported(self) -> bool:
        """Whether it was trained elsewhere."""
        return self.facts.origin is not None

    @property
    def run_id(self) -> str:
        """Its id."""
        return self.facts.run_id

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

    @cached_property
    def digest(self) -> str:
        """Its `result_digest`: equal for runs that are one training, or one repeated bit for bit.

        Raises:
            DataError: its predictions cannot be read, or are not consistent with the run.
        """
        return result_digest(self.losses, self.correct)
