"""Submits, audits, describes and builds networks: one submission and one audit of a file and its knobs serve all seeds.

The trials of a study differ in their knobs, so each needs an audit of its own, during which a GPU would wait for one
CPU core. With a GPU, other processes make the audits and leave them in a folder: see `harness.runs.shared_audits`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from torch import nn

from harness import audit, confine, submission
from harness.audit import Audit, ModelSummary
from harness.errors import OutOfMemory, ran_out_of_memory
from harness.runs.audit_cache import Inspected, audit_key, cache_audit, cached_audit
from harness.spec import Architecture, Job, Knob
from harness.submission import Submission


@dataclass(frozen=True, eq=False)
class Built:
    """A job's network, on the CPU, with its audit.

    Attributes:
        network: started from the job's seed.
        audit: its ledger and its two graphs. They hold the same network started from a fixed seed; the compute mode is
            chosen with it, so that the mode does not depend on the job's seed.
        model: the network's description.
    """

    network: nn.Module
    audit: Audit
    model: ModelSummary


def build(job: Job) -> Built:
    """Audit a job's network and start it from the job's seed.

    Raises:
        Refusal: the network breaks a rule.
        CrashedError: the process of its file died, hung, or was out of memory.
    """
    found = inspect_job(job)
    with _raising_out_of_memory(job.path):
        return Built(submission.started(found.submission, job.seed, "weights", job.path), found.audit, found.model)


def inspect_job(job: Job) -> Inspected:
    """Audit and describe a job's network, once for all seeds; submit its file first if the job has no submission.

    Raises:
        Refusal, CrashedError: as `build`.
    """
    key = audit_key(job)
    found = cached_audit(key)
    if found is None:
        found = _inspected(Submission(job.submission or submitted(job).submission), job.path)
        cache_audit(key, found)
    return found


def inspect(architecture: Architecture, knobs: Mapping[str, Knob]) -> Inspected:
    """Submit a file, and audit and describe its network.

    Raises:
        Refusal, CrashedError: as `build`.
    """
    return _inspected(submission.submit(architecture.source, architecture.path, knobs), architecture.path)


def submitted(job: Job) -> Job:
    """Return a job with the submission that the process of its file hands over.

    Raises:
        Refusal: the file breaks the contract, or its network a rule.
        CrashedError: that process died, hung, or was out of memory.
    """
    data = submission.submit(job.source, job.path, job.knobs)
    return replace(job, submission=data.text, network=data.hash, isolation=confine.isolation().level)


@contextlib.contextmanager
def _raising_out_of_memory(path: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if ran_out_of_memory(error):
            raise OutOfMemory.of(path, error) from error
        raise


def _inspected(data: Submission, path: str) -> Inspected:
    with _raising_out_of_memory(path):
        network, found = submission.audited(data, path)
        with submission.reading():
            return Inspected(data, found, audit.describe(network, found))
