"""Report the state of device, data, journals, studies and MLflow, and fix problems after asking.

Nothing is deleted: damaged files are moved to mlruns/damaged/, and rebuilt if possible.
"""

from __future__ import annotations

import argparse
import sys

from harness.cli.console import console
from harness.cli.exit import report
from harness.doctor import Finding, examine
from harness.errors import HarnessError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="fix problems without asking")


def main(args: argparse.Namespace) -> int:
    codes = [0]
    for finding in examine():
        console.print(f"  {finding.subject:<10}", end="")
        console.print(finding.said, style="red" if finding.exit_code else None)
        is_fixed = finding.offer and (args.yes or _agrees(finding)) and _fix(finding)
        if not is_fixed:
            codes.append(finding.exit_code)
    console.print("no problems left" if max(codes) == 0 else "problems remain", style="bold")
    return max(codes)


def _agrees(finding: Finding) -> bool:
    if not sys.stdin.isatty():
        console.print(f"{'':<12}can be fixed with --yes: {finding.offer}")
        return False
    try:
        answer = console.input(f"{'':<12}{finding.offer}? [y/N] ", markup=False)
    except EOFError:  # Ctrl-D
        answer = ""
    return answer.strip().lower() in ("y", "yes")


def _fix(finding: Finding) -> bool:
    assert finding.fix
    try:
        done = finding.fix()
    except HarnessError as error:
        report(error)
        return False
    for line in done.split("\n"):
        console.print(f"{'':<12}{line}", style="green")
    return True
