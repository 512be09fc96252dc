"""The command line: one module for each command, named as typed and imported on demand.

A command's module has a docstring, which is its help, and the functions `add_arguments` and `main`, which returns the
exit code. `HarnessError` is raised anywhere and printed by `harness.cli.exit`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from functools import partial
from typing import NoReturn

from harness import __version__, confine
from harness.cli.exit import in_good_order
from harness.cli.isolate import run_isolated
from harness.errors import UsageError, did_you_mean

COMMANDS = {
    "run": "train architectures under the budget and record everything",
    "check": "audit architectures and show their layers, without training",
    "new": "write a new architecture that passes check",
    "list": "show datasets, architectures and recipe fields",
    "tune": "search dropout, learning rate, widths and other settings",
    "leaderboard": "rank finished runs and say which differences are significant",
    "verify": "train a row again from its stored graphs, and say whether it is what it claims",
    "compare": "compare two networks with new seeds, by a plan that is written down first",
    "backprop": "sweep the learning rate of a 2-2-2 network trained by hand-derived gradients",
    "speed": "time training beside a plain PyTorch loop and the limit of the machine",
    "ui": "open the MLflow UI on the recorded runs",
    "sync": "add missing runs to MLflow; safe to repeat",
    "doctor": "report the state of data, runs, studies, MLflow and device, and offer to fix problems",
}

PLUG_IN_COMMANDS = ("run", "check", "tune", "compare", "speed")
"""Commands that execute plug-ins, in confined processes."""

ISOLATED_COMMANDS = (*PLUG_IN_COMMANDS, "verify")
"""Commands that train or audit networks, each in a process of its own: a network can crash it."""


def main(argv: Sequence[str] | None = None, isolated: bool = False) -> int:
    """Run the command line and return the exit code; see `harness.errors` for what each means.

    Args:
        isolated: run a plug-in's code in another process even if there is only one plug-in.
    """
    arguments = [*(sys.argv[1:] if argv is None else argv)]  # not list(...): that may be the command
    return in_good_order(partial(_dispatch, arguments, isolated))


def _dispatch(arguments: Sequence[str], isolated: bool) -> int:
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help", "help"):
        print(_help())
        return 0
    if name == "--version":
        print(f"harness {__version__}")
        return 0
    if name not in COMMANDS:
        raise UsageError(
            f"There is no command '{name}'.",
            allowed=f"Allowed: {', '.join(COMMANDS)}.",
            hint=did_you_mean(name, COMMANDS) or "python -m harness --help describes each command.",
        )
    if name in PLUG_IN_COMMANDS or "--import" in arguments:
        confine.prepare("harness.submission.child", "harness.plugins.study")  # it imports while this process does
    module = importlib.import_module(f"harness.cli.{name}")
    parser = _Parser(
        prog=f"python -m harness {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    typed = [_renamed(argument) for argument in arguments[1:]]
    args = parser.parse_args(typed)
    args.typed = {argument.partition("=")[0] for argument in typed if argument.startswith("--")}
    if (isolated and name in ISOLATED_COMMANDS) or len(getattr(args, "files", ())) > 1:
        return run_isolated(module, args)
    return int(module.main(args))


_RENAMED = {
    "--again": "--retrain",
    "--plain": "--reference",
    "--batch": "--proposals",
    "--patience": "--hang-timeout",
}
"""Old names of options from before version 0.3.0, and their new names; accepted for one version."""


def _renamed(argument: str) -> str:
    name, equals, value = argument.partition("=")
    if name not in _RENAMED:
        return argument
    print(f"note: {name} is now {_RENAMED[name]}", file=sys.stderr)
    return f"{_RENAMED[name]}{equals}{value}"


class _Parser(argparse.ArgumentParser):
    """A parser that raises its errors as `UsageError`."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(
            f"{message[:1].upper()}{message[1:]}.",
            allowed="Lists are comma-separated, without spaces; a value that starts with a minus sign is joined by =.",
            hint=f"{self.prog} --help lists what is allowed.",
        )


def _help() -> str:
    rows = "\n".join(f"  {name:<13}{meaning}" for name, meaning in COMMANDS.items())
    return (
        "usage: python -m harness COMMAND ...\n\n"
        "Train small MNIST networks under one fixed budget and say, with evidence, which is better.\n\n"
        f"{rows}\n\n"
        "python -m harness COMMAND --help says more. Start with:\n"
        "  python -m harness run architectures/s6_gap.py\n\n"
        "exit codes: 0 done; 2 usage or contract; 3 over budget; 4 refused by the audit; 5 data;\n"
        "            6 diverged; 7 result safe, MLflow not reached; 8 crashed, hung or out of memory;\n"
        "            130 Ctrl-C; 143 SIGTERM"
    )
