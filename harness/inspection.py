"""Networks built, audited and described: audited once for a file and its knobs, whatever the seed.

A study's trials differ in their knobs, so each needs an audit of its own, in which a GPU would wait for one core.
There other processes make them: they leave them in a folder, where the one that trains finds them.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections import OrderedDict
from collections.abc import Mapping
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


def build(job: Job) -> tuple[nn.Module, Audit, Anatomy]:
    """Build a job's network from its seed, on the CPU; return it, its audit and its description.

    Raises:
        Refusal: it is not legal.
        OutOfMemory: it does not fit into the memory there is.
    """
    training.seed_everything(job.seed, 0, "weights")  # before the file runs: it may draw at its top level
    architecture = plugins.from_source(job.source, job.path)
    network = plugins.build_network(architecture, job.knobs)
    return network, *_inspect(architecture, job.knobs, network)


def inspect(architecture: Architecture, knobs: Mapping[str, Knob]) -> _Inspected:
    """Build a network, audit it and describe it.

    Raises:
        Refusal: it is not legal.
        OutOfMemory: it does not fit into the memory there is.
    """
    return _inspect(architecture, knobs, plugins.build_network(architecture, knobs))


def _inspect(architecture: Architecture, knobs: Mapping[str, Knob], network: nn.Module) -> _Inspected:
    try:
        found = _audited(architecture, knobs, network)
        if found[0].ledger.parameters <= BUDGET.parameters:  # else it is refused anyway, and for a plainer reason
            audit.refuse_trained_start(
                network, found[0], lambda: plugins.build_network(architecture, knobs), architecture.path
            )
    except Exception as error:
        if ran_out_of_memory(error):
            raise OutOfMemory.of(architecture.path, error) from error
        raise
    return found


def _audited(architecture: Architecture, knobs: Mapping[str, Knob], network: nn.Module) -> _Inspected:
    key = _key(architecture.sha256, knobs)
    if key in _kept and _kept[key][0].serves_every_seed:
        _kept.move_to_end(key)
        audit.refuse_another(_kept[key][0], network, architecture.path)
    else:
        with plugins.in_one_process(architecture.path):
            found = audit.audit(network, architecture.path)
            _keep(key, (found, describe(network, found)))
    return _kept[key]


def _key(sha256: str, knobs: Mapping[str, Knob]) -> str:
    return hashlib.sha256(json.dumps([sha256, dict(knobs)], sort_keys=True).encode()).hexdigest()


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
        found: _Inspected | HarnessError = _kept[_key(job.sha256, job.knobs)]
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
        _keep(_key(job.sha256, job.knobs), found)


def _expected(folder: Path, job: Job) -> Path:
    return folder / f"{_key(job.sha256, job.knobs)}.expected"


def _left(folder: Path, job: Job) -> Path:
    return folder / f"{_key(job.sha256, job.knobs)}.audit"


def _write(folder: Path, job: Job, contents: bytes) -> None:
    part = folder / f"{os.getpid()}.part"
    part.write_bytes(contents)
    os.replace(part, _left(folder, job))
