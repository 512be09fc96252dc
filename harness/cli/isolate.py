"""Runs commands in a child process for each plug-in, so that a crash of a plug-in is reported and harms no other."""

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

from harness import confine, watchdog
from harness.cli.exit import WORDS, Terminated, exit_code, in_good_order, name_file, report, signal_of
from harness.errors import CrashedError, HarnessError

GRACE_SECONDS = 8.0
"""Seconds that a stopped command may take to end cleanly before it is killed."""


def run_isolated(module: ModuleType, args: argparse.Namespace) -> int:
    """Run a command's `main` once for each file, one after the other, and return the highest exit code.

    `main` reports errors of its file and returns an exit code. If it raises, the error is one of the command line or of
    the data, which the other files would meet too, so they are skipped. A command that keeps records has a
    `mark_interrupted`, which is called with the reason if a process died.
    """
    ended: list[tuple[str, int]] = []
    for one in _by_file(args):
        subject = _subject(one) or module.__name__.rpartition(".")[2]
        code, continues = _one(module, one, subject)
        ended.append((subject, code))
        if not continues:
            break
    if len(getattr(args, "files", ())) > 1:
        with contextlib.suppress(OSError):  # the reader may be gone
            print("", *(f"{WORDS.get(code, code):<24}{path}" for path, code in ended), sep="\n", flush=True)
    return max(code for _, code in ended)


def _one(module: ModuleType, args: argparse.Namespace, subject: str) -> tuple[int, bool]:
    """Return the exit code of one file, and whether to continue with the next one."""
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
            print("\r\x1b[2K\x1b[?25h", end="", flush=True)  # clears the line of a progress bar
        recorded, continues = _record(module, child, error)
        return max(error.exit_code, recorded), continues
    return code, returned or code in _STOPPED  # a plug-in stopped itself: not the user's signal


_STOPPED = tuple(exit_code(stop) for stop in (KeyboardInterrupt(), Terminated()))


def _record(module: ModuleType, child: _Child, error: CrashedError) -> tuple[int, bool]:
    """Report and record why a process died; return the exit code, and False if a signal stopped the recording."""
    report(error)
    if not hasattr(module, "mark_interrupted"):
        return 0, True
    recorder = _Child(module.mark_interrupted, {child.pid: error.message}, "Recording the interruption")
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
    """A child process that shares the terminal but does not receive its Ctrl-C.

    Args:
        work: called with `argument` in the child; returns an exit code.
        subject: what the child works on, for messages.
        hang_timeout: seconds without a heartbeat after which the child is ended.
    """

    def __init__(
        self, work: Callable[[Any], int], argument: object, subject: str, hang_timeout: float = watchdog.HANG_TIMEOUT
    ) -> None:
        self._subject = subject
        self._hang_timeout = hang_timeout
        self._folder = tempfile.TemporaryDirectory(prefix="harness-")
        self._log = Path(self._folder.name) / "log"
        # A fork starts with all modules imported. Nothing has run yet that would not survive it: no CUDA, no threads
        # of torch. On systems other than Linux, system libraries do not survive a fork.
        context = get_context("fork") if sys.platform == "linux" else get_context("spawn")
        self._answer, self._sender = context.Pipe(duplex=False)
        self._process = context.Process(target=_run, args=(work, argument, self._log, self._sender))

    @property
    def pid(self) -> int:
        """The process id, or 0 before the start."""
        return self._process.pid or 0

    def run(self) -> tuple[int, bool]:
        """Run the child; return its exit code, and whether `work` returned rather than raised.

        Raises:
            CrashedError: the child died or hung.
        """
        with self._paused_by_ctrl_z():
            self._process.start()
            self._sender.close()
            return self._end()

    def stop(self, stop: KeyboardInterrupt) -> int:
        """Pass a signal on to the child, and return its exit code.

        Raises:
            CrashedError: it did not end in time, and was killed.
        """
        if not self.pid:
            return exit_code(stop)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal_of(stop))
        if not wait([self._process.sentinel], GRACE_SECONDS):
            self._process.kill()
            with contextlib.suppress(CrashedError):
                self._end()
            raise CrashedError(f"{self._subject} did not stop within {GRACE_SECONDS:g} seconds and was killed.")
        return self._end()[0]

    def _end(self) -> tuple[int, bool]:
        clock = watchdog.Watchdog(self.pid, self._log, self._hang_timeout)
        while not wait([self._process.sentinel], watchdog.SLICE):
            clock.tick()
        watchdog.end_group(self.pid)  # before it is reaped: its process id cannot be reused yet
        self._process.join()
        with self._folder:
            with contextlib.suppress(EOFError):
                if self._answer.poll():
                    code, returned = self._answer.recv()
                    return code, returned
            raise watchdog.post_mortem(self._subject, self._process.exitcode, self._log)

    @contextlib.contextmanager
    def _paused_by_ctrl_z(self) -> Iterator[None]:
        """Pass Ctrl-Z on, which only this process receives: pause the child too, and continue it later."""
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
    if hang_timeout := getattr(argument, "hang_timeout", None):
        confine.limit_time(hang_timeout)
    if getattr(argument, "is_one_of_several", False):
        name_file(*argument.files)
    returned = []

    def command() -> int:
        returned.append(work(argument))
        return returned[0]

    try:
        code = in_good_order(command)
    except Exception:  # a bug of the harness: the traceback is for the report
        traceback.print_exc()
        code = HarnessError.exit_code
        returned.append(code)
    sender.send((code, bool(returned)))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # a plug-in may have closed it
            stream.flush()
    os._exit(0)  # does not wait for threads that a plug-in left running
