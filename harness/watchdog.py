"""Processes that run somebody's code: watched, ended with their children, and what ended them put into words.

A watched process has a group of its own, which takes its children along. It says `heartbeat` whenever it
does, by the time of a file that its watcher looks at. The clock is the watcher's, where no plug-in can stop
it; on its demand the process writes the lines it stands at into that file, as after a segmentation fault,
also where a plug-in does not let go of the interpreter.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import re
import signal
import sysconfig
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from harness.errors import CrashedError

HANG_TIMEOUT = 1_800.0
"""Seconds without news after which a process is given up: more than any epoch within the budget takes."""

SLICE = 0.5
"""Seconds between two looks. One that takes much longer, as the machine slept, counts as one."""

_AT_REST = 0.0
_log: Path | None = None


# --- in the process ---------------------------------------------------------------------------------------


def watch(log: Path) -> None:
    """Have this process watched: called once, in the process itself, before it runs anybody's code.

    Args:
        log: a file of its own, for the lines it stands at when it breaks down.
    """
    global _log
    file = open(log, "a", encoding="utf-8")  # noqa: SIM115  for as long as it lives
    _log = log
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    if hasattr(signal, "SIGTTOU"):
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # it is in the background, and writes to the terminal
    faulthandler.enable(file)
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1, file)
    threading.Thread(target=_end_with_the_parent, args=(os.getppid(),), daemon=True).start()


def heartbeat() -> None:
    """Say that this process makes progress; of no effect in one that nobody watches."""
    _tell(time.time())


def pause() -> None:
    """Say that this process waits for others, who may take their time, until it gets on again."""
    _tell(_AT_REST)


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Wait for others, and then get on."""
    pause()
    try:
        yield
    finally:
        heartbeat()


def _tell(when: float) -> None:
    if _log:
        with contextlib.suppress(OSError):  # its watcher has gone, and so will this process
            os.utime(_log, (when, when))


def _end_with_the_parent(parent: int) -> None:
    process = multiprocessing.parent_process()
    if process is not None:
        with contextlib.suppress(OSError):  # a plug-in may have closed what this listens to
            process.join()
        while os.getppid() == parent:  # a process that dies closes its files before its children are orphans
            time.sleep(0.1)
        end_group(os.getpid())
        os._exit(1)  # where there are no groups


# --- in its watcher ---------------------------------------------------------------------------------------


class Watchdog:
    """Counts the time since a watched process got on."""

    def __init__(self, pid: int, log: Path, hang_timeout: float) -> None:
        self._pid = pid
        self._log = log
        self._hang_timeout = hang_timeout
        self._last = _AT_REST
        self._slices = 0

    def tick(self) -> None:
        """Look, once in `SLICE` seconds; end the process, if it has not got on for too long."""
        try:
            news = self._log.stat().st_mtime
        except OSError:
            return
        self._slices = self._slices + 1 if news == self._last != _AT_REST else 0
        self._last = news
        if self._slices * SLICE >= self._hang_timeout:
            self._end()

    def _end(self) -> None:
        with contextlib.suppress(OSError), open(self._log, "a", encoding="utf-8") as file:
            file.write(f"\n\n{_OVERDUE}{self._hang_timeout:g} s\n\n")
        with contextlib.suppress(OSError):
            if hasattr(signal, "SIGUSR1"):
                os.kill(self._pid, signal.SIGUSR1)
                time.sleep(SLICE)  # while it writes down where it stands
            os.kill(self._pid, getattr(signal, "SIGKILL", signal.SIGTERM))


_OVERDUE = "No further for "


def end_group(leader: int) -> None:
    """Kill the processes of a group, if any are left."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, signal.SIGKILL)


def post_mortem(subject: str, exitcode: int | None, log: Path) -> CrashedError:
    """Say what ended a watched process that did not end in good order, and at which line of a plug-in it stood.

    Args:
        subject: what it was at work on.
        exitcode: as `multiprocessing` has it: negative for a signal.
        log: what `watch` was given.
    """
    said = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    place = _place(said)
    if overdue := re.search(f"{_OVERDUE}(.*)", said):
        return CrashedError(
            f"{subject} got no further for {overdue[1]}, and was ended{place}.",
            allowed="An audit, and every epoch of a training, must end within --hang-timeout seconds.",
            hint="Mend that line, or give it more time with --hang-timeout.",
        )
    if exitcode is not None and exitcode < 0:
        known = {number.value: number.name for number in signal.Signals}
        name = known.get(-exitcode, f"signal {-exitcode}")
        by_the_system = "; unless somebody did that, this machine ran out of memory" if name == "SIGKILL" else ""
        return CrashedError(
            f"{subject} was ended by {name}{place}{by_the_system}.",
            allowed="What was finished before is kept.",
            hint="Look at that line." if place else "The same command goes on, or shows whether it happens again.",
        )
    return CrashedError(
        f"{subject} ended itself, with exit code {exitcode}.",
        allowed="A plug-in builds a network and returns it.",
        hint="Look for os._exit in it.",
    )


def _place(said: str) -> str:
    """Return `` at FILE:LINE`` for the innermost line that is neither ours nor installed, or an empty string.

    Of the threads the one that broke down is marked as the current one; else the main one comes last.
    """
    threads = [thread for thread in re.split(r"\n\n", said) if "most recent call first" in thread]
    guilty = next((thread for thread in threads if thread.startswith("Current")), threads[-1] if threads else "")
    for file, line in re.findall(r'File "(.+?)", line (\d+)', guilty):
        if Path(file).is_file() and not any(Path(file).resolve().is_relative_to(root) for root in _NOT_PLUG_INS):
            return f" at {file}:{line}"
    return ""


_NOT_PLUG_INS = [Path(__file__).parent, *(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib"))]
"""Where Python, its packages and the harness lie."""
