"""Networks built, audited and described: audited once for a file and its knobs, whatever the seed.

A study's trials differ in their knobs, so each needs an audit of its own, in which a GPU would wait for one core.
There other processes make them: they leave them in a folder, where the one that trains finds them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from harness import audit, plugins, training
from harness.anatomy import Anatomy, describe
from harness.audit import Audit
from harness.errors import HarnessError, OutOfMemory, ran_out_of_memory
from harness.spec import BUDGET, Architecture, Job, Knob

MOST_KEPT = 100
"""Audits kept in memory, those used last: each holds two graphs, a megabyte or two."""

_Inspected = tuple[Audit, Anatomy]

_kept: OrderedDict[str, _Inspected] = OrderedDict()


@dataclass(frozen=True, eq=False)
class Built:
    """A job's network, on the CPU, and what is known of it.

    Attributes:
        network: built from the job's seed.
        audit: whose graphs hold it.
        reference: the audit of the same network with numbers that no job's seed has a part in: how the job is
            computed is decided with these.
        anatomy: its description.
    """

    network: nn.Module
    audit: Audit
    reference: Audit
    anatomy: Anatomy


def build(job: Job) -> Built:
    """Build a job's network from its seed, and audit it.

    Raises:
        Refusal: it is not legal.
        OutOfMemory: it does not fit into the memory there is.
    """
    with _telling_of_memory(job.path):
        reference, anatomy = _reference(job.source, job.path, job.sha256, job.knobs)
        training.seed_everything(job.seed, 0, "weights")  # before the file runs: it may draw at its top level
        architecture = plugins.from_source(job.source, job.path)
        network = plugins.build_network(architecture, job.knobs)
        return Built(network, _compared(network, reference, architecture, job.knobs), reference, anatomy)


def inspect(architecture: Architecture, knobs: Mapping[str, Knob]) -> _Inspected:
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


def _reference(source: str, path: str, sha256: str, knobs: Mapping[str, Knob]) -> _Inspected:
    """Audit the network of a file and its knobs, from a seed of its own; once."""
    key = _key(path, sha256, knobs)
    if key not in _kept:
        training.seed_everything(0, 0, "audit")
        network = plugins.build_network(plugins.from_source(source, path), knobs)
        with plugins.in_one_process(path):
            found = audit.audit(network, path)
            _keep(key, (found, describe(network, found)))
    _kept.move_to_end(key)
    return _kept[key]


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


def _key(path: str, sha256: str, knobs: Mapping[str, Knob]) -> str:
    return hashlib.sha256(json.dumps([path, sha256, dict(knobs)], sort_keys=True).encode()).hexdigest()


def _keep(key: str, found: _Inspected) -> None:
    _kept[key] = found
    if len(_kept) > MOST_KEPT:
        _kept.popitem(last=False)


# --- from process to process ------------------------------------------------------------------------------


def expect(folder: Path, job: Job) -> bool:
    """Note in `folder` that a process will leave the audit of this job's network there; return False if one did."""
    try:
        _expected(folder, job).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def leave(folder: Path, job: Job) -> None:
    """Audit a job's network and leave the audit, or why there is none, in `folder`."""
    try:
        build(job)
        found: _Inspected | HarnessError = _kept[_key(job.path, job.sha256, job.knobs)]
    except HarnessError as error:
        found = error
    _write(folder, job, pickle.dumps(found))


def leave_nothing(folder: Path, job: Job) -> None:
    """Note that the process that was to audit a job's network has ended, unless it left something before."""
    if is_awaited(folder, job):
        _write(folder, job, b"")


def is_awaited(folder: Path, job: Job) -> bool:
    """Whether the audit of this job's network is expected in `folder`, and is not there yet."""
    return _expected(folder, job).exists() and not _left(folder, job).exists()


def take(folder: Path, job: Job) -> None:
    """Take the audit that was left in `folder` for this job's network, if there is one, for `build` to use.

    Raises:
        HarnessError: why the network was refused.
    """
    left = _left(folder, job)
    if not left.exists():
        return
    contents = left.read_bytes()
    for file in (_expected(folder, job), left):
        file.unlink()
    if contents:  # else its process died: the one that trains the network audits it, and says of what it dies
        found = pickle.loads(contents)
        if isinstance(found, HarnessError):
            raise found
        _keep(_key(job.path, job.sha256, job.knobs), found)


def _expected(folder: Path, job: Job) -> Path:
    return folder / f"{_key(job.path, job.sha256, job.knobs)}.expected"


def _left(folder: Path, job: Job) -> Path:
    return folder / f"{_key(job.path, job.sha256, job.knobs)}.audit"


def _write(folder: Path, job: Job, contents: bytes) -> None:
    part = folder / f"{os.getpid()}.part"
    part.write_bytes(contents)
    os.replace(part, _left(folder, job))
