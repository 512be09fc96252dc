"""The settings that identify a study."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import journal as journals
from harness.data import Dataset
from harness.spec import BUDGET, Study

BATCH = 10
"""Default number of trials proposed per batch. Part of a study's identity, so it must not depend on the machine."""

COUNTED = ("complete", "pruned", "infeasible")
"""States that count as finished trials; trials in other states failed."""


@dataclass(frozen=True)
class Search:
    """The settings of a study; changing one of them, except `device`, starts a new study.

    Attributes:
        study: the study's file.
        dataset: with validation images held out; its name and digest are part of the identity.
        epochs: of every trial, unless the study suggests them; None for the architecture's own number.
        seed: of the sampler.
        device: the device that trains the trials.
        batch: number of trials proposed per batch.
    """

    study: Study
    dataset: Dataset
    epochs: int | None
    seed: int
    sampler: str
    pruner: str
    device: str
    batch: int = BATCH

    @property
    def settings(self) -> dict[str, Any]:
        """The identity as plain data, with files by name and hash."""
        return {
            "study": self.study.name,
            "study_sha256": self.study.sha256,
            "architecture": self.study.architecture.path,
            "architecture_sha256": self.study.architecture.sha256,
            "dataset": self.dataset.name,
            "dataset_digest": self.dataset.digest,
            "epochs": self.epochs,
            "seed": self.seed,
            "sampler": self.sampler,
            "pruner": self.pruner,
            "protocol": BUDGET.protocol,
            **({} if self.batch == BATCH else {"batch": self.batch}),  # so older studies keep their id
        }

    @property
    def id(self) -> str:
        """The study's name and a hash of its settings."""
        identity = {name: value for name, value in self.settings.items() if name not in ("study", "architecture")}
        return f"{journals.safe_name(self.study.name)}-{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]}"


def studies_folder() -> Path:
    """Return the folder of all studies."""
    return journals.ROOT.absolute() / "studies"
