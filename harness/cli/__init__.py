"""The command line: one module a command, named as typed, loaded when it is typed.

A command's module has a docstring (its help), `add_arguments` and `main`, which returns the exit code.
Errors are raised anywhere and printed here.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from functools import partial
from typing import NoReturn

from harness import __version__
from harness.cli.exit import in_good_order
from harness.cli.isolate import run_isolated
from harness.errors import UsageError, did_you_mean

COMMANDS = {
    "run": "train architectures under the budget and record everything",
    "check": "audit architectures and show their layers, without training",
    "new": "write a new architecture that passes check",
    "list": "show datasets, architectures and recipe fields",
    "tune": "search dropout, learning rate, widths and other settings",
    "leaderboard": "rank finished runs, say who is better and how sure that is",
    "compare": "compare two networks by a plan that is written down first, with new seeds",
    "backprop": "sweep the learning rate of a 2-2-2 network trained by hand-derived gradients",
    "speed": "time training beside a plain PyTorch loop and beside what the machine can do",
    "ui": "open the MLflow UI on the recorded runs",
    "sync": "bring MLflow up to the journals",
    "doctor": "report the state of data, runs, studies, MLflow and device, and mend what can be mended",
}

PLUG_IN_COMMANDS = ("run", "check", "tune", "compare", "speed", "sync")
"""These run the code of plug-ins, and do so in a process of their own."""


def main(argv: Sequence[str] | None = None, apart: bool = False) -> int:
    """Run the command line and return the exit code; see `harness.errors` for what each means.

    Args:
        apart: run a plug-in's code in another process, also where there is only one plug-in.
    """
    arguments = [*(sys.argv[1:] if argv is None else argv)]  # list is a command here, once it is loaded
    return in_good_order(partial(_dispatch, arguments, apart))


def _dispatch(arguments: Sequence[str], apart: bool) -> int:
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
            allowed=f"Legal: {', '.join(COMMANDS)}.",
            hint=did_you_mean(name, COMMANDS) or "python -m harness --help says what each does.",
        )
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
    if (apart and name in PLUG_IN_COMMANDS) or len(getattr(args, "files", ())) > 1:
        return run_isolated(module, args)
    return int(module.main(args))


_RENAMED = {
    "--again": "--retrain",
    "--plain": "--reference",
    "--batch": "--proposals",
    "--patience": "--hang-timeout",
}
"""Options by their names before version 0.2.0, which are accepted until the next one."""


def _renamed(argument: str) -> str:
    name, equals, value = argument.partition("=")
    if name not in _RENAMED:
        return argument
    print(f"note: {name} is now {_RENAMED[name]}", file=sys.stderr)
    return f"{_RENAMED[name]}{equals}{value}"


class _Parser(argparse.ArgumentParser):
    """Reports a mistake as every other error is reported."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(
            f"{message[:1].upper()}{message[1:]}.",
            allowed="Lists are comma-separated, without spaces; a value that begins with a minus sign is joined by =.",
            hint=f"{self.prog} --help says what is legal.",
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
        "            6 diverged; 7 result safe, tracker not reached; 8 crashed, out of memory or of time;\n"
        "            130 Ctrl-C; 143 SIGTERM"
    )
