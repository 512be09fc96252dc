"""Processes that run somebody's code: watched, ended with their children, and what ended them put into words.

A watched process has a group of its own, which takes its children along. It says `gets_on` whenever it
does; one that says nothing for too long is ended by a timer that needs no turn of the interpreter, so that
a plug-in cannot hold it up, and the lines it stood at go to a log, as they do after a segmentation fault.
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
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from harness.errors import CrashedError

PATIENCE = 1_800.0
"""Seconds without news after which a process is given up: more than any epoch within the budget takes."""

_log: TextIO | None = None
_patience = PATIENCE


def watch(log: Path, patience: float) -> None:
    """Have this process watched: called once, in the process itself, before it runs anybody's code.

    Args:
        log: a file of its own, for the lines it stands at when it breaks down.
        patience: seconds that may pass between two calls of `gets_on`.
    """
    global _log, _patience
    _log, _patience = open(log, "w", encoding="utf-8"), patience  # noqa: SIM115  for as long as it lives
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    if hasattr(signal, "SIGTTOU"):
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # it is in the background, and writes to the terminal
    faulthandler.enable(_log)
    gets_on()
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def gets_on() -> None:
    """Say that this process makes progress; of no effect in one that nobody watches."""
    if _log:
        faulthandler.dump_traceback_later(_patience, exit=True, file=_log)


@contextlib.contextmanager
def at_rest() -> Iterator[None]:
    """Wait for others, who may take their time: meanwhile this process need not get on."""
    if _log:
        faulthandler.cancel_dump_traceback_later()
    try:
        yield
    finally:
        gets_on()


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        end_group(os.getpid())
        os._exit(1)  # where there are no groups


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
    said = log.read_text(encoding="utf-8") if log.exists() else ""
    place = _place(said)
    if timeout := re.match(r"Timeout \((.*?)\)", said):  # hours:minutes:seconds
        return CrashedError(
            f"{subject} got no further for {timeout[1]}, and was ended{place}.",
            legal="An audit, and every epoch of a training, must end within --patience seconds.",
            mend="Mend that line, or give it more time with --patience.",
        )
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        by_the_system = "; unless somebody did that, this machine ran out of memory" if name == "SIGKILL" else ""
        return CrashedError(
            f"{subject} was ended by {name}{place}{by_the_system}.",
            legal="What was finished before is kept.",
            mend="Look at that line of it."
            if place
            else "The same command goes on, or shows whether it happens again.",
        )
    return CrashedError(
        f"{subject} ended itself, with exit code {exitcode}.",
        legal="A plug-in builds a network and returns it.",
        mend="Look for os._exit in it.",
    )


def _place(said: str) -> str:
    """Return `` at FILE:LINE`` for the innermost line that is neither ours nor installed, or an empty string.

    Of the threads the one that broke down is named first; of those that took too long, the main one last.
    """
    threads = [thread for thread in re.split(r"\n\n", said) if "most recent call first" in thread]
    guilty = next((thread for thread in threads if thread.startswith("Current")), threads[-1] if threads else "")
    for file, line in re.findall(r'File "(.+?)", line (\d+)', guilty):
        if Path(file).is_file() and not any(Path(file).resolve().is_relative_to(root) for root in _NOT_PLUG_INS):
            return f" at {file}:{line}"
    return ""


_NOT_PLUG_INS = [Path(__file__).parent, *(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib"))]
"""Where Python, its packages and the harness lie."""
