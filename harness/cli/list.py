"""Show datasets, architectures and recipe fields."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from harness import data, plugins
from harness.cli import show
from harness.errors import HarnessError
from harness.spec import Recipe


def add_arguments(_parser: argparse.ArgumentParser) -> None:
    """There is nothing to choose."""


def main(_args: argparse.Namespace) -> int:
    show.console.rule("datasets", align="left")
    for name in data.NAMES:
        where = data.whereabouts(name)
        show.console.print(f"  {name:<10}{where}")
    show.console.rule("architectures", align="left")
    for path in sorted(Path("architectures").glob("*.py")):
        show.console.print(f"  {path!s:<36}{_summary(path)}")
    show.console.rule("recipe fields (--set NAME=VALUE)", align="left")
    rows = show.table("name", "default", "legal", "unit", "meaning")
    for field in fields(Recipe):
        legal = field.metadata
        span = ", ".join(legal["choices"]) or (
            "true, false" if field.type == "bool" else f"{legal['low']:g} to {legal['high']:g}"
        )
        rows.add_row(field.name, str(field.default), span, legal["unit"], legal["meaning"])
    show.console.print(rows)
    return 0


def _summary(path: Path) -> str:
    try:
        return plugins.load(path).summary
    except HarnessError as error:
        return f"[red]{error.wrong}[/red]"
