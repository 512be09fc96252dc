"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> str:
    """Return a Markdown table; the columns named in `right` are aligned to the right."""
    gap = "\N{NO-BREAK SPACE}" * 3  # MLflow's UI puts no space between columns
    rule = ["--:" if head in right else "---" for head in header]
    lines = [[head + gap for head in header], rule, *([_cell(text) for text in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def markdown_list(lines: Iterable[str]) -> str:
    """Return a Markdown list of plain text: no tag, link or image in it comes to life."""
    return "\n".join("- " + line.replace("<", "&lt;").replace("[", "\\[") for line in lines)


def nested_list(items: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Return a Markdown list of plain text whose items may have parts."""
    return "\n".join(
        line
        for item, parts in items
        for line in (markdown_list([item]), *(f"  {markdown_list([part])}" for part in parts))
    )


def _cell(text: str) -> str:
    """Escape what would end a cell or start an HTML tag."""
    return text.replace("|", "\\|").replace("<", "&lt;")
