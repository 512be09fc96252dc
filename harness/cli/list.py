"""Show datasets, architectures and recipe fields."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from harness import data, plugins
from harness.cli.console import console, new_table
from harness.errors import HarnessError
from harness.spec import Recipe, span


def add_arguments(_parser: argparse.ArgumentParser) -> None:
    """Add nothing: the command has no options."""


def main(_args: argparse.Namespace) -> int:
    console.rule("datasets", align="left")
    for name in data.NAMES:
        console.print(f"  {name:<10}{_whereabouts(name)}")
    console.rule("architectures", align="left")
    for path in sorted(Path("architectures").glob("*.py")):
        _introduce(path)
    console.rule("recipe fields (--set NAME=VALUE)", align="left")
    rows = new_table("name", "default", "allowed", "unit", "meaning")
    for field in fields(Recipe):
        allowed = field.metadata
        choices = ", ".join(allowed["choices"]) or ("true, false" if field.type == "bool" else span(allowed))
        rows.add_row(field.name, str(field.default), choices, allowed["unit"], allowed["meaning"])
    console.print(rows)
    return 0


def _whereabouts(name: str) -> str:
    try:
        return data.whereabouts(name)
    except HarnessError as error:
        return error.message


def _introduce(path: Path) -> None:
    """Print the first line of a file's docstring, without running the file."""
    summary = plugins.declaration(path.read_text(encoding="utf-8", errors="replace")).summary
    console.print(f"  {path!s:<36}{summary or 'has no docstring, or is not valid Python; check says more'}")
