"""Audits kept in memory, by file and knobs: one serves every seed."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping

from harness.audit import Audit, ModelSummary
from harness.spec import Knob

MOST_KEPT = 100
"""Most audits kept in memory, the last used ones: each holds two graphs, one or two megabytes."""

Inspected = tuple[Audit, ModelSummary]

_cache: OrderedDict[str, Inspected] = OrderedDict()


def audit_key(path: str, sha256: str, knobs: Mapping[str, Knob]) -> str:
    """Return the cache key of an audit: a digest of path, file text and knobs."""
    return hashlib.sha256(json.dumps([path, sha256, dict(knobs)], sort_keys=True).encode()).hexdigest()


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
