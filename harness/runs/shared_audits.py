"""Audits handed from process to process through a folder."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

from harness.errors import HarnessError
from harness.runs.build import Inspected, audit_key, build, cache_audit, cached_audit
from harness.spec import Job


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
        found: Inspected | HarnessError = cached_audit(job)
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
        cache_audit(audit_key(job.path, job.sha256, job.knobs), found)


def _expected(folder: Path, job: Job) -> Path:
    return folder / f"{audit_key(job.path, job.sha256, job.knobs)}.expected"


def _left(folder: Path, job: Job) -> Path:
    return folder / f"{audit_key(job.path, job.sha256, job.knobs)}.audit"


def _write(folder: Path, job: Job, contents: bytes) -> None:
    part = folder / f"{os.getpid()}.part"
    part.write_bytes(contents)
    os.replace(part, _left(folder, job))
