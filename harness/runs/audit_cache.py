"""Audits kept in memory, by submission, or by file and knobs where a network was not submitted before."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass

from harness.audit import Audit, ModelSummary
from harness.spec import Job
from harness.submission import Submission

MOST_KEPT = 100
"""Most audits kept in memory, the last used ones: each holds two graphs, one or two megabytes."""


@dataclass(frozen=True, eq=False)
class Inspected:
    """A network that passed the audit: as data, its audit, and its description."""

    submission: Submission
    audit: Audit
    model: ModelSummary


_cache: OrderedDict[str, Inspected] = OrderedDict()


def audit_key(job: Job) -> str:
    """Return the cache key of a job's audit: a digest of the path, and of its submission or of file text and knobs."""
    content = json.dumps([job.path, job.network or [job.sha256, dict(job.knobs)]], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def cached_audit(key: str) -> Inspected | None:
    """Return an audit that is in memory, or None."""
    if key in _cache:
        _cache.move_to_end(key)
    return _cache.get(key)


def cache_audit(key: str, found: Inspected) -> None:
    """Keep an audit in memory; beyond `MOST_KEPT`, drop the least recently used one."""
    _cache[key] = found
    if len(_cache) > MOST_KEPT:
        _cache.popitem(last=False)
