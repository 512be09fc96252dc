"""Commands in processes of their own, one a plug-in: what a plug-in does to its process is reported, and ends there."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any

from harness import supervision
from harness.cli.endings import WORDS, exit_code, in_good_order, report, signal_of, speak_of
from harness.errors import CrashedError

GRACE_SECONDS = 12.0
"""How long a command that was asked to stop may take to end in good order, before it is killed."""


def each(module: ModuleType, args: argparse.Namespace) -> int:
    """Run a command's `main` once a file, one after the other, and return the highest exit code.

    A `main` reports what is wrong with its file and returns. One that raises was called in a wrong way,
    or lacks its data: the other files would end likewise, and are left alone. A command that keeps records
    has a `settle`, which is told what ended a process.
    """
    codes: dict[str, int] = {}
    for one in _by_file(args):
        code, goes_on = _one(module, one, _subject(one))
        codes[_subject(one)] = code
        if not goes_on:
            break
    if len(getattr(args, "files", ())) > 1:
        with contextlib.suppress(OSError):  # who has gone need not be told
            print("", *(f"{WORDS.get(code, code):<24}{path}" for path, code in codes.items()), sep="\n", flush=True)
    return max(codes.values())


def _one(module: ModuleType, args: argparse.Namespace, subject: str) -> tuple[int, bool]:
    """Return the exit code of one file, and whether the next one has its turn."""
    child = _Child(module.main, args, subject, getattr(args, "patience", supervision.PATIENCE))
    try:
        return child.run()
    except KeyboardInterrupt as stop:
        return child.stop(stop), False
    except CrashedError as error:
        if sys.stdout.isatty():
            print("\r\x1b[2K\x1b[?25h", end="", flush=True)  # a progress bar was in the midst of its line
        report(error)
        settled = 0
        if hasattr(module, "settle"):
            settled, _ = _Child(module.settle, {child.pid: error.wrong}, "Recording that").run()
        return max(error.exit_code, settled), True


def _by_file(args: argparse.Namespace) -> Iterator[argparse.Namespace]:
    for path in getattr(args, "files", ()) or [None]:
        one = {"files": [path], "is_one_of_several": len(args.files) > 1} if path else {}
        yield argparse.Namespace(**vars(args) | one)


def _subject(args: argparse.Namespace) -> str:
    given = [getattr(args, name, None) for name in ("file", "study", "resume")]
    return next((str(name) for name in (*getattr(args, "files", ()), *given) if name), "It")


class _Child:
    """Work in another process, which has the terminal but not its Ctrl-C.

    Args:
        work: is given `argument` there, and returns an exit code.
        subject: what is at work, in words.
        patience: seconds without news after which it is ended.
    """

    def __init__(
        self, work: Callable[[Any], int], argument: object, subject: str, patience: float = supervision.PATIENCE
    ) -> None:
        self._subject = subject
        self._folder = tempfile.TemporaryDirectory(prefix="harness-")
        self._log = Path(self._folder.name) / "log"
        # A fork begins with all modules loaded. Nothing has run yet that would not survive one: no CUDA, no
        # threads of torch. Elsewhere than on Linux system libraries do not survive it either.
        context = get_context("fork") if sys.platform == "linux" else get_context("spawn")
        self._answer, self._sender = context.Pipe(duplex=False)
        self._process = context.Process(target=_run, args=(work, argument, self._log, patience, self._sender))

    @property
    def pid(self) -> int:
        """The process's number, or 0 before it has one."""
        return self._process.pid or 0

    def run(self) -> tuple[int, bool]:
        """Return the exit code when it has ended, and whether it returned one rather than raised.

        Raises:
            CrashedError: its process died instead.
        """
        self._process.start()
        self._sender.close()
        return self._end()

    def stop(self, stop: KeyboardInterrupt) -> int:
        """Pass a signal on, and return the exit code when it has ended, in good order or not."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal_of(stop))
            if not wait([self._process.sentinel], GRACE_SECONDS):
                self._process.kill()
            with contextlib.suppress(CrashedError):
                return self._end()[0]
        return exit_code(stop)

    def _end(self) -> tuple[int, bool]:
        wait([self._process.sentinel])
        supervision.end_group(self.pid)  # before it is reaped: its number is still its own
        self._process.join()
        with self._folder:
            with contextlib.suppress(EOFError):
                if self._answer.poll():
                    code, returned = self._answer.recv()
                    return code, returned
            raise supervision.post_mortem(self._subject, self._process.exitcode, self._log)


def _run(work: Callable[[Any], int], argument: Any, log: Path, patience: float, sender: Connection) -> None:
    supervision.watch(log, patience)
    if getattr(argument, "is_one_of_several", False):
        speak_of(*argument.files)
    returned = []

    def command() -> int:
        returned.append(work(argument))
        return returned[0]

    sender.send((in_good_order(command), bool(returned)))
