"""Train the runs of a row again from their stored graphs, and say whether they are what they claim to be.

Where machine, threads and versions are those of a claimed run, its seed is trained again, and losses and predictions
must be equal. Elsewhere other seeds are trained, and a test says whether their scores and the claimed ones can be of
one distribution.

A training is kept in ``mlruns/verifications/unfinished/`` until the verification is concluded, so the same command goes
on after an interruption. Its file is named by job, machine, threads and versions: with others it is not found.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import DataError, UsageError
from harness.events import Checkpoint, Epoch, Result
from harness.journal import DAMAGE, Run, recount, result_digest
from harness.journal.verifications import Verdict, Verification, verifications_folder, write
from harness.leaderboard import row_key
from harness.runs.existing import environment_here, identity_of, surroundings_of
from harness.runs.train import Event, Started, raising_crashes, train
from harness.spec import Job
from harness.statistics import Agreement, agreement

FEWEST_EXACT, FEWEST_OTHERS = 1, 3
"""Seeds that are trained by default: one tells whether bits repeat; a test of scores needs some."""

LEVEL = 0.01
"""Below this p-value a row is contradicted: of honest ones, one in a hundred is at each verification."""


@dataclass(frozen=True)
class VerificationPlan:
    """What is to be trained.

    Attributes:
        claimed: the runs that it is about.
        jobs: the trainings.
        is_exact: whether each repeats a claimed run on a machine like its own.
    """

    claimed: tuple[Run, ...]
    jobs: tuple[Job, ...]
    is_exact: bool


@dataclass(frozen=True)
class Training:
    """A training that was made to verify a row.

    Attributes:
        losses: the training loss of each epoch.
        wrong: the positions of the test images that it classifies wrongly, of so many `images`.
        accuracy: its score, as a fraction of 1.
        device: where it was trained, with the compute mode.
    """

    seed: int
    losses: Sequence[float]
    wrong: Sequence[int]
    images: int
    accuracy: float
    device: str

    @classmethod
    def of(cls, job: Job, started: Started, epochs: Sequence[Epoch], result: Result) -> Training:
        """Return a training from its events."""
        wrong = np.flatnonzero(result.logits.argmax(1) != result.labels).tolist()
        device = f"{started.device_name}, {started.mode.label}"
        losses = [epoch.train_loss for epoch in epochs]
        return cls(job.seed, losses, wrong, len(result.labels), result.accuracy, device)

    @property
    def correct(self) -> np.ndarray:
        """Which test images it classifies correctly: (images,) bool."""
        right = np.ones(self.images, dtype=bool)
        right[[*self.wrong]] = False
        return right

    @property
    def digest(self) -> str:
        """Its `result_digest`."""
        return result_digest(self.losses, self.correct)


def keep_training(job: Job, training: Training) -> None:
    """Keep a training until its verification is concluded.

    Raises:
        UsageError: the file cannot be written.
    """
    write(_unfinished(job), asdict(training))


def kept_training(job: Job) -> Training | None:
    """Return the training of a job that was kept here, by this machine with these versions."""
    with contextlib.suppress(*DAMAGE):
        return Training(**json.loads(_unfinished(job).read_text(encoding="utf-8")))
    return None


def forget_trainings(jobs: Iterable[Job]) -> None:
    """Delete the trainings of some jobs that were kept."""
    for job in jobs:
        _unfinished(job).unlink(missing_ok=True)


def _unfinished(job: Job) -> Path:
    facts = json.dumps([identity_of(job), surroundings_of(environment_here(job.device))])
    return verifications_folder() / "unfinished" / f"{hashlib.sha256(facts.encode()).hexdigest()[:16]}.json"


def plan_verification(claimed: Sequence[Run], seeds: int | None, device: str) -> VerificationPlan:
    """Choose the trainings that verify some runs of one row.

    Args:
        claimed: the runs, by seed.
        seeds: number of trainings; by default `FEWEST_EXACT` or `FEWEST_OTHERS`.
        device: cpu or cuda.

    Raises:
        UsageError: a run has no stored graph.
        DataError: a stored graph is not the one of its record.
    """
    for run in claimed:
        if not run.journal.has_submission:
            raise UsageError(f"{run.name} cannot be verified: no graph is stored with its record.")
        _recount(run)
    here = surroundings_of(environment_here(device))
    alike = [run for run in claimed if _repeats(run, device, here)]
    if alike:
        chosen = alike[: seeds or FEWEST_EXACT]
        return VerificationPlan(tuple(claimed), tuple(_job(run, run.seed, device) for run in chosen), True)
    after = max(run.seed for run in claimed) + 1
    others = range(after, after + (seeds or FEWEST_OTHERS))
    return VerificationPlan(tuple(claimed), tuple(_job(claimed[0], seed, device) for seed in others), False)


def train_unrecorded(job: Job) -> Generator[Event | None]:
    """Train a job and yield its events, without a journal.

    Raises:
        HarnessError: as `train`; any other error becomes a `CrashedError`.
    """
    with raising_crashes(job):
        for event in train(job):
            assert not isinstance(event, Checkpoint)  # only made to be kept
            yield event


def conclude(plan: VerificationPlan, trained: Sequence[Training], author: str) -> tuple[Verification, Agreement | None]:
    """Compare the trainings with the claimed runs; return what is recorded, and the test of scores if one was made."""
    claimed = {run.seed: run for run in plan.claimed}
    is_equal = plan.is_exact and all(each.digest == claimed[each.seed].digest for each in trained)
    before, after = (np.stack([each.correct for each in arm]) for arm in (plan.claimed, trained))
    test = None if is_equal else agreement(before, after)
    job, start = plan.jobs[0], plan.claimed[0].facts.start
    verdict: Verdict = "bit for bit" if is_equal else "undecided" if test is None else _verdict(test)
    environment = environment_here(job.device)
    found = Verification(
        row=row_key(plan.claimed[0].facts.job),
        title=start.title,
        dataset=job.dataset,
        author=author,
        time=round(time.time() * 1000),
        claimed=tuple((run.seed, run.digest) for run in plan.claimed),
        seeds=tuple(each.seed for each in trained),
        scores=tuple(each.accuracy for each in trained),
        verdict=verdict,
        p=test.p if test else None,
        device=trained[0].device,
        torch=environment.torch,
        harness=environment.harness,
    )
    return found, test


def _verdict(test: Agreement) -> Verdict:
    return "contradicted" if test.p < LEVEL else "agrees"


def _recount(run: Run) -> None:
    try:
        recount(run.journal, run.facts.start)
    except DataError as error:
        raise DataError(f"{run.run_id}: {error.message}.", allowed="Such a run is not believed.") from error


def _repeats(run: Run, device: str, here: Mapping[str, Any]) -> bool:
    """Return whether this machine should give the bits of a run."""
    environment = run.facts.start.environment
    return run.facts.job.device == device and surroundings_of(environment) == here and not environment.unrepeatable


def _job(run: Run, seed: int, device: str) -> Job:
    """Return the job that trains a run's stored graph from a seed."""
    source, submission = run.journal.source, run.journal.submission
    return replace(run.facts.job, source=source, submission=submission, seed=seed, device=device)
