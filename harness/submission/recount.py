"""The ledger of a document from elsewhere, counted in a confined process.

To count a network is to rebuild and export it. A forged one can crash the process that does so, hang it, or fill its
memory; here it ends a process that holds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from harness import confine, plugins
from harness.audit import Entry
from harness.errors import ChildDied, DataError, OutOfMemory
from harness.submission.counted import ledger_of
from harness.submission.document import LONGEST, Submission
from harness.submission.plain import malformed

SECONDS = 60.0
"""Seconds that counting may take; the slowest network of this project takes 3."""


def recounted(document: str, path: str) -> tuple[str, list[Entry]]:
    """Return the hash and the ledger of the network of a document; as little is believed of them as of the document.

    Args:
        path: file name for messages.

    Raises:
        Refusal: the document is malformed, or its network is refused.
        DataError: it crashed or hung the process that counted it, or filled its memory.
    """
    if len(document) > LONGEST:
        raise malformed(f"the document has {len(document):,} characters")
    request = {"document": document, "path": path}
    try:
        reply = confine.call("harness.submission.recount:count", request, seconds=SECONDS, subject=path)
    except OutOfMemory as error:
        raise DataError("the process that counts its numbers runs out of memory") from error
    except ChildDied as error:
        raise DataError(f"the process that counts its numbers {error.reason}") from error
    if isinstance(refused := reply.get("refused"), dict):
        raise plugins.error_of(refused)
    network, ledger = reply["result"]
    return network, [Entry(**{**entry, "shape": tuple(entry["shape"])}) for entry in ledger]


def count(request: Mapping[str, str], _ask: object) -> dict[str, Any]:
    """Reply hash and ledger of a document; runs in the confined process."""
    return plugins.reply(lambda: _counted(Submission(request["document"]), request["path"]))


def _counted(data: Submission, path: str) -> tuple[str, list[dict[str, Any]]]:
    return data.hash, [asdict(entry) for entry in ledger_of(data, path).entries]
