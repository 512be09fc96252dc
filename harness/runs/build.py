"""Builds, audits and describes networks: one audit for a file and its knobs serves all seeds.

The trials of a study differ in their knobs, so each needs an audit of its own, during which a GPU would wait for one
CPU core. With a GPU, other processes make the audits and leave them in a folder: see `harness.runs.shared_audits`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from harness import audit, plugins, training
from harness.audit import Audit, ModelSummary, describe
from harness.errors import OutOfMemory, ran_out_of_memory
from harness.runs.audit_cache import Inspected, audit_key, cache_audit, cached_audit
from harness.spec import BUDGET, Architecture, Job, Knob


@dataclass(frozen=True, eq=False)
class Built:
    """A job's network, on the CPU, with its audits.

    Attributes:
        network: built from the job's seed.
        audit: the audit whose graphs hold that network.
        reference: the audit of the same network built from a fixed seed; the compute mode is chosen with it, so that
            the mode does not depend on the job's seed.
        model: the network's description.
    """

    network: nn.Module
    audit: Audit
    reference: Audit
    model: ModelSummary


def build(job: Job) -> Built:
    """Build a job's network from its seed, and audit it.

    Raises:
        Refusal: the network breaks a rule.
        OutOfMemory: it does not fit into memory.
    """
    with _raising_out_of_memory(job.path):
        reference, model = _reference(job.source, job.path, job.sha256, job.knobs)
        training.seed_everything(job.seed, 0, "weights")  # before the file runs: its top level may draw random numbers
        architecture = plugins.from_source(job.source, job.path)
        network = plugins.build_network(architecture, job.knobs)
        return Built(network, _compared(network, reference, architecture, job.knobs), reference, model)


def inspect(architecture: Architecture, knobs: Mapping[str, Knob]) -> Inspected:
    """Audit and describe the network that a file builds.

    Raises:
        Refusal: the network breaks a rule.
        OutOfMemory: it does not fit into memory.
    """
    with _raising_out_of_memory(architecture.path):
        found = _reference(architecture.source, architecture.path, architecture.sha256, knobs)
        _compared(plugins.build_network(architecture, knobs), found[0], architecture, knobs)
    return found


@contextlib.contextmanager
def _raising_out_of_memory(path: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if ran_out_of_memory(error):
            raise OutOfMemory.of(path, error) from error
        raise


def _reference(source: str, path: str, sha256: str, knobs: Mapping[str, Knob]) -> Inspected:
    """Return the audit of a file's network, built from a fixed seed; made once for each file and knobs."""
    key = audit_key(path, sha256, knobs)
    found = cached_audit(key)
    if found is None:
        training.seed_everything(0, 0, "audit")
        network = plugins.build_network(plugins.from_source(source, path), knobs)
        with plugins.in_one_process(path):
            audited = audit.audit(network, path)
            found = audited, describe(network, audited)
        cache_audit(key, found)
    return found


def _compared(network: nn.Module, reference: Audit, architecture: Architecture, knobs: Mapping[str, Knob]) -> Audit:
    """Refuse a network that differs from the audited one; return the audit whose graphs hold it."""
    path, found = architecture.path, reference
    if reference.serves_every_seed:
        audit.refuse_another(reference, network, path)
    else:
        with plugins.in_one_process(path):
            found = audit.audit(network, path)
        audit.refuse_other_audit(reference, found, path)
    if found.ledger.parameters <= BUDGET.parameters:  # else it is refused anyway, for a simpler reason
        audit.refuse_trained_start(network, found, lambda: plugins.build_network(architecture, knobs), path)
    return found
