"""Refuse a start that was trained: it says how many of an author's own numbers a network may start with."""

from __future__ import annotations

from dataclasses import replace

from harness.audit import Audit, Entry, Ledger
from harness.errors import AuditError
from harness.spec import BUDGET
from harness.submission.document import Submission
from harness.submission.patterns import authors_numbers

SHARE = 0.15
"""Largest share of the counted numbers that may be the author's own: filters, positions, a basis."""

MOST_BROUGHT = 1_000
"""Most of an author's own numbers in any network, with the values that follow from a formula."""

FEW_BROUGHT = 32
"""Numbers that are allowed in any network, however small: three edge filters, or the settings of a few layers."""


def with_numbers_of_start(found: Audit, data: Submission, path: str) -> Audit:
    """Add the author's numbers that stand in the start alone to the ledger, and refuse a start that was trained.

    Args:
        found: the audit of the submission's network.
        path: file name for messages.

    Raises:
        AuditError: more of the numbers that the network starts with are the author's own than may be.
    """
    patterns = authors_numbers(data.start)
    ledger = found.ledger
    if patterns.extra:
        extra = Entry(path, "numbers from which build makes the start", "literal", (), patterns.extra)
        ledger = Ledger((*ledger.entries, extra))
    written = sum(entry.numbers for entry in found.ledger.entries if entry.kind == "literal")
    brought = patterns.brought + written
    most = max(FEW_BROUGHT, min(MOST_BROUGHT, int(SHARE * ledger.parameters)))
    if brought <= most < brought + patterns.formulas:
        brought, most = brought + patterns.formulas, MOST_BROUGHT
    made = f": {patterns.arranged:,} for the operators that make them" if patterns.arranged else ""
    if brought > most and ledger.parameters <= BUDGET.parameters:  # else it is refused for a simpler reason
        raise AuditError(
            "trained-start",
            f"{brought:,} of the numbers that the network starts with are the file's own, not drawn{made}.",
            where=path,
            allowed=f"Allowed: {most:,} of {ledger.parameters:,}: {SHARE:.0%}, for filters, positions or a basis; with "
            f"values of a formula {MOST_BROUGHT:,}. Those that forward computes from sizes alone are free.",
            hint="Compute fixed filters and grids in forward, or store one of those that repeat; draw weights with "
            "torch.nn.init or torch.randn, not with numpy; only the harness trains.",
        )
    return replace(found, ledger=ledger)
