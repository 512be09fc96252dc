"""Ledgers counted again from the stored graph, when a record arrives from elsewhere.

The network is rebuilt from the stored document, which is data: no plug-in is executed. A forged document can crash or
hang what rebuilds it, so a confined process does. It takes about a second, so it is done on arrival and not each time
a board is made, and once for all seeds of a network.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from harness.audit import Entry
from harness.errors import DataError, HarnessError
from harness.journal.journal import Journal
from harness.journal.record import RunStart
from harness.submission import recounted


@dataclass(frozen=True)
class Counted:
    """What a stored graph gives.

    Attributes:
        network: its hash.
        ledger: all its numbers.
        refused: why its network is refused; empty if it is not.
    """

    network: str
    ledger: Sequence[Entry] = ()
    refused: str = ""

    @property
    def parameters(self) -> int:
        """The numbers that count."""
        return sum(entry.numbers for entry in self.ledger if entry.counted)


_known: dict[str, Counted] = {}
"""By SHA-256 of the document: the seeds of a network share one."""


def counted(document: str, path: str) -> Counted:
    """Count the numbers of the network of a stored document; once for each document.

    Args:
        path: file name for messages.
    """
    key = hashlib.sha256(document.encode()).hexdigest()
    if key not in _known:
        _known[key] = _counted(document, path)
    return _known[key]


def _counted(document: str, path: str) -> Counted:
    try:
        return Counted(*recounted(document, path))
    except HarnessError as error:
        return Counted("", refused=error.message)
    except Exception as error:  # a forged document can raise anything
        return Counted("", refused=f"it cannot be rebuilt ({type(error).__name__})")


def refuse_other_ledger(start: RunStart, found: Counted) -> None:
    """Refuse a ledger that is not that of its graph.

    Raises:
        DataError: the ledger has other numbers, or the network is refused.
    """
    if found.refused:
        raise DataError(f"its graph is refused: {found.refused}")
    if start.parameters != found.parameters:
        raise DataError(f"its ledger says {start.parameters:,} numbers, its graph has {found.parameters:,}")
    if _numbers(start.ledger) != _numbers(found.ledger):
        raise DataError("its ledger lists other tensors than its graph has")


def recount(journal: Journal, start: RunStart) -> None:
    """Check a record against the graph that is stored with it; one without a graph passes, and boards mark it.

    Raises:
        DataError: the graph is not the one of the record, or the ledger is not that of the graph.
    """
    if not journal.submission:
        return
    found = counted(journal.submission, start.job.path)
    refuse_other_ledger(start, found)
    if found.network != start.job.network:
        raise DataError("its graph is not the one that was trained: the hash differs")


def _numbers(ledger: Sequence[Entry]) -> Counter[tuple[str, int, bool]]:
    return Counter((entry.kind, entry.numbers, entry.counted) for entry in ledger)
