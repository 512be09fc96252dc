"""What a study is: the settings that make its identity."""

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
"""Trials asked together, unless a study says otherwise. Part of what it is: it must not depend on the machine."""

COUNTED = ("complete", "pruned", "infeasible")
"""States that count as finished trials; the others are losses."""


@dataclass(frozen=True)
class Search:
    """What a study is: change one field and it is another study.

    Attributes:
        epochs: of every trial, unless the study suggests them; None for the architecture's own.
        dataset: with validation images held out; its name and digest are what counts.
        device: where trials train; the one field that is no part of the identity.
        batch: how many trials are asked for together.
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
        """The fields as plain data, files by name and hash."""
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
            **({} if self.batch == BATCH else {"batch": self.batch}),  # studies from before it could be chosen go on
        }

    @property
    def id(self) -> str:
        """The study's name and a hash of its settings."""
        identity = {name: value for name, value in self.settings.items() if name not in ("study", "architecture")}
        return f"{journals.safe_name(self.study.name)}-{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]}"


def studies_folder() -> Path:
    """Return the folder of all studies."""
    return journals.ROOT.absolute() / "studies"
