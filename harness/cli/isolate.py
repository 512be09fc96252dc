"""Commands in processes of their own, one a plug-in: what a plug-in does to its process is reported, and ends there."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any

from harness import watchdog
from harness.cli.exit import WORDS, Terminated, exit_code, in_good_order, name_file, report, signal_of
from harness.errors import CrashedError, HarnessError

GRACE_SECONDS = 8.0
"""How long a command that was asked to stop may take to end in good order, before it is killed."""


def run_isolated(module: ModuleType, args: argparse.Namespace) -> int:
    """Run a command's `main` once a file, one after the other, and return the highest exit code.

    A `main` reports what is wrong with its file and returns. One that raises was called in a wrong way,
    or lacks its data: the other files would end likewise, and are left alone. A command that keeps records
    has a `mark_interrupted`, which is told what ended a process.
    """
    ended: list[tuple[str, int]] = []
    for one in _by_file(args):
        subject = _subject(one) or module.__name__.rpartition(".")[2]
        code, goes_on = _one(module, one, subject)
        ended.append((subject, code))
        if not goes_on:
            break
    if len(getattr(args, "files", ())) > 1:
        with contextlib.suppress(OSError):  # who has gone need not be told
            print("", *(f"{WORDS.get(code, code):<24}{path}" for path, code in ended), sep="\n", flush=True)
    return max(code for _, code in ended)


def _one(module: ModuleType, args: argparse.Namespace, subject: str) -> tuple[int, bool]:
    """Return the exit code of one file, and whether the next one has its turn."""
    child = _Child(module.main, args, subject, getattr(args, "hang_timeout", watchdog.HANG_TIMEOUT))
    try:
        code, returned = child.run()
    except KeyboardInterrupt as stop:
        try:
            return child.stop(stop), False
        except CrashedError as error:
            _record(module, child, error)
            return exit_code(stop), False
    except CrashedError as error:
        if sys.stdout.isatty():
            print("\r\x1b[2K\x1b[?25h", end="", flush=True)  # a progress bar was in the midst of its line
        settled, goes_on = _record(module, child, error)
        return max(error.exit_code, settled), goes_on
    return code, returned or code in _STOPPED  # it stopped itself: nobody asked us to


_STOPPED = tuple(exit_code(stop) for stop in (KeyboardInterrupt(), Terminated()))


def _record(module: ModuleType, child: _Child, error: CrashedError) -> tuple[int, bool]:
    """Report what ended a process, and have it recorded; return the exit code, and whether nobody stopped that."""
    report(error)
    if not hasattr(module, "mark_interrupted"):
        return 0, True
    recorder = _Child(module.mark_interrupted, {child.pid: error.message}, "Recording that")
    try:
        return recorder.run()[0], True
    except KeyboardInterrupt as stop:
        with contextlib.suppress(CrashedError):
            recorder.stop(stop)
        return exit_code(stop), False


def _by_file(args: argparse.Namespace) -> Iterator[argparse.Namespace]:
    for path in getattr(args, "files", ()) or [None]:
        one = {"files": [path], "is_one_of_several": len(args.files) > 1} if path else {}
        yield argparse.Namespace(**vars(args) | one)


def _subject(args: argparse.Namespace) -> str:
    given = [getattr(args, name, None) for name in ("file", "study", "resume")]
    return next((str(name) for name in (*getattr(args, "files", ()), *given) if name), "")


class _Child:
    """Work in another process, which has the terminal but not its Ctrl-C.

    Args:
        work: is given `argument` there, and returns an exit code.
        subject: what is at work, in words.
        hang_timeout: seconds without news after which it is ended.
    """

    def __init__(
        self, work: Callable[[Any], int], argument: object, subject: str, hang_timeout: float = watchdog.HANG_TIMEOUT
    ) -> None:
        self._subject = subject
        self._hang_timeout = hang_timeout
        self._folder = tempfile.TemporaryDirectory(prefix="harness-")
        self._log = Path(self._folder.name) / "log"
        # A fork begins with all modules loaded. Nothing has run yet that would not survive one: no CUDA, no
        # threads of torch. Elsewhere than on Linux system libraries do not survive it either.
        context = get_context("fork") if sys.platform == "linux" else get_context("spawn")
        self._answer, self._sender = context.Pipe(duplex=False)
        self._process = context.Process(target=_run, args=(work, argument, self._log, self._sender))

    @property
    def pid(self) -> int:
        """The process's number, or 0 before it has one."""
        return self._process.pid or 0

    def run(self) -> tuple[int, bool]:
        """Return the exit code when it has ended, and whether it returned one rather than raised.

        Raises:
            CrashedError: its process died instead.
        """
        with self._paused_by_ctrl_z():
            self._process.start()
            self._sender.close()
            return self._end()

    def stop(self, stop: KeyboardInterrupt) -> int:
        """Pass a signal on, and return the exit code when it has ended in good order.

        Raises:
            CrashedError: it has not, and was killed.
        """
        if not self.pid:
            return exit_code(stop)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal_of(stop))
        if not wait([self._process.sentinel], GRACE_SECONDS):
            self._process.kill()
            with contextlib.suppress(CrashedError):
                self._end()
            raise CrashedError(f"{self._subject} did not stop within {GRACE_SECONDS:g} seconds, and was ended.")
        return self._end()[0]

    def _end(self) -> tuple[int, bool]:
        clock = watchdog.Watchdog(self.pid, self._log, self._hang_timeout)
        while not wait([self._process.sentinel], watchdog.SLICE):
            clock.tick()
        watchdog.end_group(self.pid)  # before it is reaped: its number is still its own
        self._process.join()
        with self._folder:
            with contextlib.suppress(EOFError):
                if self._answer.poll():
                    code, returned = self._answer.recv()
                    return code, returned
            raise watchdog.post_mortem(self._subject, self._process.exitcode, self._log)

    @contextlib.contextmanager
    def _paused_by_ctrl_z(self) -> Iterator[None]:
        """Ctrl-Z is heard here alone: stop the process too, and let it go on with us."""
        if not hasattr(signal, "SIGTSTP"):
            yield
            return

        def pause(*_: object) -> None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGSTOP)
                os.kill(os.getpid(), signal.SIGSTOP)
                os.killpg(self.pid, signal.SIGCONT)

        before = signal.signal(signal.SIGTSTP, pause)
        try:
            yield
        finally:
            signal.signal(signal.SIGTSTP, before)


def _run(work: Callable[[Any], int], argument: Any, log: Path, sender: Connection) -> None:
    watchdog.watch(log)
    if getattr(argument, "is_one_of_several", False):
        name_file(*argument.files)
    returned = []

    def command() -> int:
        returned.append(work(argument))
        return returned[0]

    try:
        code = in_good_order(command)
    except Exception:  # of ours: whoever reads it can tell us
        traceback.print_exc()
        code = HarnessError.exit_code
        returned.append(code)
    sender.send((code, bool(returned)))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # whatever became of it
            stream.flush()
    os._exit(0)  # what a plug-in has left running is not waited for
