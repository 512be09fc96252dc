"""Audit architectures and show their layers, without training.

Counts every number the exported network stores, says which of batch norm, dropout, fully connected
layer, global average pooling and 1x1 convolution it uses, and refuses what the budget does not allow.
"""

from __future__ import annotations

import argparse

from harness import audit, plugins
from harness.cli import options, show
from harness.cli.endings import report
from harness.errors import HarnessError
from harness.experiment import inspect
from harness.spec import BUDGET


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_files(parser)
    options.add_set(parser)
    options.add_patience(parser)


def main(args: argparse.Namespace) -> int:
    given = options.settings(args.settings)
    (path,) = args.files  # of several, each has a process of its own
    try:
        _check(path, given)
    except HarnessError as error:  # about this file: others may be as they should
        report(error)
        return error.exit_code
    return 0


def _check(path: str, given: dict[str, str]) -> None:
    architecture = plugins.load(path)
    knobs, recipe = options.settle(architecture, given)
    found, anatomy = inspect(architecture, knobs)
    show.console.rule(f"{architecture.name}", align="left")
    show.console.print(architecture.summary)
    show.layers(anatomy)
    show.ledger(found.ledger)
    show.anatomy(anatomy)
    show.warn_of_softmax(anatomy)
    audit.enforce(found.ledger, recipe, BUDGET)
    show.console.print("passes", style="green", end="")
    show.console.print(
        f": {found.ledger.parameters:,} parameters of {BUDGET.parameters:,}, "
        f"{recipe.epochs} epochs of {BUDGET.epochs} (protocol {BUDGET.protocol})"
    )
