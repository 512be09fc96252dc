"""Networks built, audited and described: audited once for a file and its knobs, whatever the seed.

A study's trials differ in their knobs, so each needs an audit of its own, in which a GPU would wait for one core.
There other processes make them: they leave them in a folder, where the one that trains finds them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from harness import audit, plugins, training
from harness.audit import Audit, ModelSummary, describe
from harness.errors import OutOfMemory, ran_out_of_memory
from harness.spec import BUDGET, Architecture, Job, Knob

MOST_KEPT = 100
"""Audits kept in memory, those used last: each holds two graphs, a megabyte or two."""

Inspected = tuple[Audit, ModelSummary]

_cache: OrderedDict[str, Inspected] = OrderedDict()


@dataclass(frozen=True, eq=False)
class Built:
    """A job's network, on the CPU, and what is known of it.

    Attributes:
        network: built from the job's seed.
        audit: whose graphs hold it.
        reference: the audit of the same network with numbers that no job's seed has a part in: how the job is
            computed is decided with these.
        model: its description.
    """

    network: nn.Module
    audit: Audit
    reference: Audit
    model: ModelSummary


def build(job: Job) -> Built:
    """Build a job's network from its seed, and audit it.

    Raises:
        Refusal: it is not legal.
        OutOfMemory: it does not fit into the memory there is.
    """
    with _telling_of_memory(job.path):
        reference, model = _reference(job.source, job.path, job.sha256, job.knobs)
        training.seed_everything(job.seed, 0, "weights")  # before the file runs: it may draw at its top level
        architecture = plugins.from_source(job.source, job.path)
        network = plugins.build_network(architecture, job.knobs)
        return Built(network, _compared(network, reference, architecture, job.knobs), reference, model)


def inspect(architecture: Architecture, knobs: Mapping[str, Knob]) -> Inspected:
    """Audit and describe the network that a file builds.

    Raises:
        Refusal: it is not legal.
        OutOfMemory: it does not fit into the memory there is.
    """
    with _telling_of_memory(architecture.path):
        found = _reference(architecture.source, architecture.path, architecture.sha256, knobs)
        _compared(plugins.build_network(architecture, knobs), found[0], architecture, knobs)
    return found


@contextlib.contextmanager
def _telling_of_memory(path: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if ran_out_of_memory(error):
            raise OutOfMemory.of(path, error) from error
        raise


def _reference(source: str, path: str, sha256: str, knobs: Mapping[str, Knob]) -> Inspected:
    """Audit the network of a file and its knobs, from a seed of its own; once."""
    key = audit_key(path, sha256, knobs)
    if key not in _cache:
        training.seed_everything(0, 0, "audit")
        network = plugins.build_network(plugins.from_source(source, path), knobs)
        with plugins.in_one_process(path):
            found = audit.audit(network, path)
            cache_audit(key, (found, describe(network, found)))
    _cache.move_to_end(key)
    return _cache[key]


def _compared(network: nn.Module, reference: Audit, architecture: Architecture, knobs: Mapping[str, Knob]) -> Audit:
    """Refuse a network that is another one than the audited; return the audit whose graphs hold it."""
    path, found = architecture.path, reference
    if reference.serves_every_seed:
        audit.refuse_another(reference, network, path)
    else:
        with plugins.in_one_process(path):
            found = audit.audit(network, path)
        audit.refuse_other_audit(reference, found, path)
    if found.ledger.parameters <= BUDGET.parameters:  # else it is refused anyway, and for a plainer reason
        audit.refuse_trained_start(network, found, lambda: plugins.build_network(architecture, knobs), path)
    return found


def audit_key(path: str, sha256: str, knobs: Mapping[str, Knob]) -> str:
    """Return what audits are kept by: a digest of path, text and knobs."""
    return hashlib.sha256(json.dumps([path, sha256, dict(knobs)], sort_keys=True).encode()).hexdigest()


def cached_audit(job: Job) -> Inspected:
    """Return the audit of a job's network, which `build` has made.

    Raises:
        KeyError: it has not, or long ago.
    """
    return _cache[audit_key(job.path, job.sha256, job.knobs)]


def cache_audit(key: str, found: Inspected) -> None:
    """Keep an audit in memory; beyond `MOST_KEPT`, the one used longest ago goes."""
    _cache[key] = found
    if len(_cache) > MOST_KEPT:
        _cache.popitem(last=False)
