"""Watch processes that run plug-in code: kill them when they hang, with their children, and report why they ended.

A watched process is the leader of a process group that contains its children. It reports progress with `heartbeat`,
which sets the modification time of its log file; the parent process reads that time. The clock runs in the parent,
where no plug-in can stop it. Before a hanging process is killed, faulthandler writes its stack to the log file, as
after a segmentation fault; that works even if a plug-in holds the interpreter lock.
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
"""Seconds without a heartbeat after which a process is killed: longer than any epoch within the budget takes."""

SLICE = 0.5
"""Seconds between two checks. A check counts as this long even if it came late because the machine slept."""

_PAUSED = 0.0
_log: Path | None = None


# --- in the process ---------------------------------------------------------------------------------------


def watch(log: Path) -> None:
    """Prepare this process for being watched; call it once, in the process itself, before it runs a plug-in.

    Args:
        log: a file of this process alone, for its heartbeat and for its stack when it crashes.
    """
    global _log
    file = open(log, "a", encoding="utf-8")  # noqa: SIM115  open as long as the process lives
    _log = log
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    if hasattr(signal, "SIGTTOU"):
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # it would stop a process that prints in the background
    faulthandler.enable(file)
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1, file)
    threading.Thread(target=_end_with_the_parent, args=(os.getppid(),), daemon=True).start()


def heartbeat() -> None:
    """Report that this process makes progress; without effect in a process that is not watched."""
    _set_time(time.time())


def pause() -> None:
    """Report that this process waits for others: it is not killed for hanging until its next `heartbeat`."""
    _set_time(_PAUSED)


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Pause the watchdog while waiting for other processes."""
    pause()
    try:
        yield
    finally:
        heartbeat()


def _set_time(when: float) -> None:
    if _log:
        with contextlib.suppress(OSError):  # the parent and its folder are gone; this process ends too
            os.utime(_log, (when, when))


def _end_with_the_parent(parent: int) -> None:
    process = multiprocessing.parent_process()
    if process is not None:
        with contextlib.suppress(OSError):  # a plug-in may have closed the pipe to the parent
            process.join()
        while os.getppid() == parent:  # the pipe closes a moment before the parent is gone
            time.sleep(0.1)
        end_group(os.getpid())
        os._exit(1)  # on systems without process groups


# --- in its watcher ---------------------------------------------------------------------------------------


class Watchdog:
    """Measures the time since the last heartbeat of a process, and kills the process when it hangs.

    Args:
        pid: the process.
        log: the file given to `watch` in that process.
        hang_timeout: seconds without a heartbeat after which it is killed.
    """

    def __init__(self, pid: int, log: Path, hang_timeout: float) -> None:
        self._pid = pid
        self._log = log
        self._hang_timeout = hang_timeout
        self._last = _PAUSED
        self._slices = 0

    def tick(self) -> None:
        """Check the heartbeat, once every `SLICE` seconds; kill the process if it has made no progress for too long."""
        try:
            beat = self._log.stat().st_mtime
        except OSError:
            return
        self._slices = self._slices + 1 if beat == self._last != _PAUSED else 0
        self._last = beat
        if self._slices * SLICE >= self._hang_timeout:
            self._end()

    def _end(self) -> None:
        with contextlib.suppress(OSError), open(self._log, "a", encoding="utf-8") as file:
            file.write(f"\n\n{_OVERDUE}{self._hang_timeout:g} s\n\n")
        with contextlib.suppress(OSError):
            if hasattr(signal, "SIGUSR1"):
                os.kill(self._pid, signal.SIGUSR1)
                time.sleep(SLICE)  # time for it to write its stack
            os.kill(self._pid, getattr(signal, "SIGKILL", signal.SIGTERM))


_OVERDUE = "No progress for "


def end_group(leader: int) -> None:
    """Kill the processes of a group, if any are left."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, signal.SIGKILL)


def post_mortem(subject: str, exitcode: int | None, log: Path) -> CrashedError:
    """Return the error for a watched process that crashed or hung, with the line of the plug-in it was at.

    Args:
        subject: what it worked on, for the message.
        exitcode: as `multiprocessing` reports it: negative for a signal.
        log: the file given to `watch`.
    """
    said = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    place = _place(said)
    if overdue := re.search(f"{_OVERDUE}(.*)", said):
        return CrashedError(
            f"{subject} made no progress for {overdue[1]} and was killed{place}.",
            allowed="An audit, and every epoch of a training, must end within --hang-timeout seconds.",
            hint="Fix that line, or allow more time with --hang-timeout.",
        )
    if exitcode is not None and exitcode < 0:
        known = {number.value: number.name for number in signal.Signals}
        name = known.get(-exitcode, f"signal {-exitcode}")
        by_the_system = "; unless that was done by hand, this machine ran out of memory" if name == "SIGKILL" else ""
        return CrashedError(
            f"{subject} was killed by {name}{place}{by_the_system}.",
            allowed="Finished work is saved.",
            hint="Look at that line." if place else "Run the same command again; it resumes, or crashes again.",
        )
    return CrashedError(
        f"{subject} exited by itself with code {exitcode}.",
        allowed="A plug-in builds a network and returns it.",
        hint="Look for os._exit in it.",
    )


def _place(said: str) -> str:
    """Return `` at FILE:LINE`` for the innermost line of a plug-in in the log, or an empty string.

    A line of a plug-in is one outside this package, Python and installed packages. faulthandler marks the thread
    that crashed as the current one; without such a mark the main thread is the last.
    """
    threads = [thread for thread in re.split(r"\n\n", said) if "most recent call first" in thread]
    crashed = next((thread for thread in threads if thread.startswith("Current")), threads[-1] if threads else "")
    for file, line in re.findall(r'File "(.+?)", line (\d+)', crashed):
        if Path(file).is_file() and not any(Path(file).resolve().is_relative_to(root) for root in _NOT_PLUG_INS):
            return f" at {file}:{line}"
    return ""


_NOT_PLUG_INS = [Path(__file__).parent, *(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib"))]
"""Folders of Python, its packages and the harness."""
