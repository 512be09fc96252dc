"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> str:
    """Return a Markdown table; columns named in `right` hold numbers."""
    gap = "\N{NO-BREAK SPACE}" * 3  # the UI leaves no room between columns
    rule = ["--:" if head in right else "---" for head in header]
    lines = [[head + gap for head in header], rule, *([_cell(text) for text in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: str) -> str:
    """Nothing in a cell is markup, or ends it."""
    return text.replace("|", "\\|").replace("<", "&lt;")
