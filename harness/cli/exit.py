"""How a command ends: its exit code, the printing of errors, and the handling of signals."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from harness.errors import HarnessError, UsageError, not_installed, printable

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """Raised by SIGTERM, which stops a command like Ctrl-C, with an exit code of its own."""


def signal_of(stop: KeyboardInterrupt) -> signal.Signals:
    """Return the signal that stopped a command."""
    return signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT


def exit_code(stop: KeyboardInterrupt) -> int:
    """Return the exit code that shells use for a command stopped by a signal."""
    return 128 + signal_of(stop)


def in_good_order(command: Callable[[], int]) -> int:
    """Run a command and return its exit code; print the errors that a user can cause."""
    try:
        with _stopped_by_signals():
            code = command()
            sys.stdout.flush()  # here, where a BrokenPipeError is handled
            return code
    except HarnessError as error:
        report(error)
        return error.exit_code
    except ModuleNotFoundError as error:  # one raised in a plug-in is a ContractError
        if str(error.name).startswith("harness"):
            raise
        report(not_installed(error))
        return UsageError.exit_code
    except KeyboardInterrupt as stop:
        print(f"{_about}Stopped.", file=sys.stderr)
        return exit_code(stop)
    except BrokenPipeError:  # the reader of the output is gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # commands report the cases they know more about
        place = error.filename or ("standard output" if error.errno in (errno.ENOSPC, errno.EIO) else "")
        report(UsageError(f"{error.strerror}{place and f': {place}'}."))
        return UsageError.exit_code


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Let the first signal stop a command cleanly, and a second one at once."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can handle signals
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


WORDS = {
    0: "done",
    2: "usage or contract",
    3: "over budget",
    4: "refused by the audit",
    5: "data",
    6: "diverged",
    7: "done, but not in MLflow",
    8: "crashed",
    130: "stopped",
    143: "stopped",
}
"""The words for each exit code in the summary of several files."""

_about = ""


def name_file(file: str) -> None:
    """Put the name of `file`, one of several, before every error that this process reports."""
    global _about
    _about = f"{file}: "


def report(error: HarnessError) -> None:
    """Print an error's lines to standard error."""
    with contextlib.suppress(OSError):  # a full disk behind `> file` must not hide the error
        sys.stdout.flush()
    first, *others = map(printable, error.lines)
    with contextlib.suppress(OSError):  # nor may one behind `2> file` raise another
        print(f"error: {_about}{first}", *(f"       {line}" for line in others), sep="\n", file=sys.stderr, flush=True)
