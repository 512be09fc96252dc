"""Submits, audits, describes and builds networks: one submission and one audit of a file and its knobs serve all seeds.

The trials of a study differ in their knobs, so each needs an audit of its own, during which a GPU would wait for one
CPU core. With a GPU, other processes make the audits and leave them in a folder: see `harness.runs.shared_audits`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from torch import nn

from harness import audit, plugins, submission
from harness.audit import Audit, ModelSummary
from harness.errors import AuditError, OutOfMemory, ran_out_of_memory
from harness.runs.audit_cache import Inspected, audit_key, cache_audit, cached_audit
from harness.seeds import seed_everything
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
        return Built(_started(found.submission, job.seed, "weights", job.path), found.audit, found.model)


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
    return replace(job, submission=data.text, network=data.hash)


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
        network = _started(data, 0, "audit", path)
        try:
            audited = audit.audit(network, path, submission.exporter(data))
        except AuditError as error:
            if data.doubt and error.rule == "batch":  # the doubt says why
                raise plugins.error_of(data.doubt) from error
            raise
        if data.doubt:
            raise plugins.error_of(data.doubt)
        audited = submission.with_numbers_of_start(audited, data, path)
        return Inspected(data, audited, audit.describe(network, audited))


def _started(data: Submission, seed: int, purpose: str, path: str) -> nn.Module:
    """Return the network of a submission, started from a seed.

    Raises:
        AuditError: the submission is malformed, or a parameter is not finite.
    """
    seed_everything(seed, 0, purpose)
    network = submission.network_of(data)
    for name, parameter in network.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise AuditError(
                "not-finite",
                f"The network is built with a parameter {name} that is not finite.",
                where=path,
                allowed="Initial weights are finite for every seed.",
                hint="Look for a division by zero or an overflow where build initialises them.",
            )
    return network
