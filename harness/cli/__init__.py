"""The command line: one module a command, named as typed, loaded when it is typed.

A command's module has a docstring (its help), `add_arguments` and `main`, which returns the exit code.
Errors are raised anywhere and printed here.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import NoReturn

from harness import __version__
from harness.errors import HarnessError, UsageError, did_you_mean, printable

COMMANDS = {
    "run": "train architectures under the budget and record everything",
    "check": "audit architectures and show their layers, without training",
    "new": "write a new architecture that passes check",
    "list": "show datasets, architectures and recipe fields",
    "tune": "search dropout, learning rate, widths and other settings",
    "leaderboard": "rank finished runs, say who is better and how sure that is",
    "backprop": "sweep the learning rate of a 2-2-2 network trained by hand-derived gradients",
    "speed": "time training beside a plain PyTorch loop and beside what the machine can do",
    "ui": "open the MLflow UI on the recorded runs",
    "sync": "bring MLflow up to the journals",
}

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM: what Ctrl-C does, with an exit code of its own."""


def exit_code(stop: KeyboardInterrupt) -> int:
    """Return what a shell expects of a command that a signal stopped."""
    return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; see `harness.errors` for what each means."""
    arguments = [*(sys.argv[1:] if argv is None else argv)]  # list is a command here, once it is loaded
    try:
        with _stopped_by_signals():
            return _dispatch(arguments)
    except HarnessError as error:
        report(error)
        return error.exit_code
    except KeyboardInterrupt as stop:
        print("Stopped.", file=sys.stderr)
        return exit_code(stop)
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # what a command knows more about, it reports itself
        report(UsageError(f"{error.strerror}: {error.filename or 'standard output'}."))
        return UsageError.exit_code


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Let the first signal stop a command in good order, and a second one at once."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are another's business
        return
    seen = False

    def stop(number: int, _: object) -> None:
        nonlocal seen
        if seen:
            os._exit(128 + number)
        seen = True
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    before = [signal.signal(number, stop) for number in _SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(_SIGNALS, before, strict=True):
            signal.signal(number, handler)


def report(error: HarnessError) -> None:
    """Print an error's lines to standard error."""
    with contextlib.suppress(OSError):  # a full disk behind `> file` is no reason to keep silent
        sys.stdout.flush()
    first, *others = map(printable, error.lines)
    with contextlib.suppress(OSError):  # nor is one behind `2> file` another error
        print(f"error: {first}", *(f"       {line}" for line in others), sep="\n", file=sys.stderr, flush=True)


def _dispatch(arguments: Sequence[str]) -> int:
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
            legal=f"Legal: {', '.join(COMMANDS)}.",
            mend=did_you_mean(name, COMMANDS) or "python -m harness --help says what each does.",
        )
    module = importlib.import_module(f"harness.cli.{name}")
    parser = _Parser(
        prog=f"python -m harness {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    return int(module.main(parser.parse_args(arguments[1:])))


class _Parser(argparse.ArgumentParser):
    """Reports a mistake as every other error is reported."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(
            f"{message[:1].upper()}{message[1:]}.",
            legal="Lists are comma-separated, without spaces; a value that begins with a minus sign is joined by =.",
            mend=f"{self.prog} --help says what is legal.",
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
        "            6 diverged; 7 result safe, tracker not reached; 8 training broke down; 130 Ctrl-C; 143 SIGTERM"
    )
