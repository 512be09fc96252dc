"""Hands audits from the processes that make them to the process that trains, through a folder."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

from harness.errors import HarnessError
from harness.runs.audit_cache import Inspected, audit_key, cache_audit
from harness.runs.build import inspect_job
from harness.spec import Job


def expect_audit(folder: Path, job: Job) -> bool:
    """Note that a process will leave the audit of this job's network in `folder`; return False if that was noted."""
    try:
        _expected(folder, job).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def leave_audit(folder: Path, job: Job) -> None:
    """Audit a job's network and leave the audit, or the error, in `folder`."""
    try:
        found: Inspected | HarnessError = inspect_job(job)
    except HarnessError as error:
        found = error
    _write(folder, job, pickle.dumps(found))


def leave_no_audit(folder: Path, job: Job) -> None:
    """Note that the auditing process has ended, unless it left an audit or an error before."""
    if is_awaited(folder, job):
        _write(folder, job, b"")


def is_awaited(folder: Path, job: Job) -> bool:
    """Return whether the audit of this job's network is expected in `folder` and not there yet."""
    return _expected(folder, job).exists() and not _left(folder, job).exists()


def take_audit(folder: Path, job: Job) -> None:
    """Move the audit of this job's network from `folder` to the cache that `build` uses, if there is one.

    Raises:
        HarnessError: the network was refused.
    """
    left = _left(folder, job)
    if not left.exists():
        return
    contents = left.read_bytes()
    for file in (_expected(folder, job), left):
        file.unlink()
    if contents:  # empty if the process died: then this one audits the network and reports what happens
        found = pickle.loads(contents)
        if isinstance(found, HarnessError):
            raise found
        cache_audit(audit_key(job), found)


def _expected(folder: Path, job: Job) -> Path:
    return folder / f"{audit_key(job)}.expected"


def _left(folder: Path, job: Job) -> Path:
    return folder / f"{audit_key(job)}.audit"


def _write(folder: Path, job: Job, contents: bytes) -> None:
    part = folder / f"{os.getpid()}.part"
    part.write_bytes(contents)
    os.replace(part, _left(folder, job))
