"""The cause of an ended process is named, with its line; a process that waits for others does not count as hung."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import watchdog

WATCHED = """
import sys, time
from pathlib import Path
from harness import watchdog
watchdog.watch(Path(sys.argv[1]))
{work}
print("done")
"""
LINE = WATCHED.splitlines().index("{work}") + 1


WORKS_OR_WAITS = (
    "time.sleep(0.2)",
    "for _ in range(12): time.sleep(0.3); watchdog.heartbeat()",
    "with watchdog.paused(): time.sleep(4)",
)
HANGS = (
    "time.sleep(50)",
    "while True: pass",
    "with watchdog.paused(): pass\ntime.sleep(50)",
    "import re; re.match(r'(a+)+$', 'a' * 60 + 'b')",  # never lets go of the interpreter
    "import faulthandler; faulthandler.cancel_dump_traceback_later(); time.sleep(50)",
)
STOPS_ITSELF = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"

Ended = tuple[int, str, Path]


class Watched:
    """Work in a process that is ended where it makes no progress for two seconds."""

    def __init__(self, work: str, folder: Path) -> None:
        self._log = folder / "log"
        (folder / "code.py").write_text(WATCHED.format(work=work))
        command = [sys.executable, str(folder / "code.py"), str(self._log)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._clock = watchdog.Watchdog(self._process.pid, self._log, 2.0)

    def runs(self) -> bool:
        """Whether it still runs, which is when its time is looked at."""
        if self._process.poll() is None:
            self._clock.tick()
            return True
        return False

    def ended(self) -> Ended:
        return self._process.returncode, self._process.stdout.read() if self._process.stdout else "", self._log


def watched(folder: Path, *works: str) -> dict[str, Ended]:
    """Do some work at the same time, and return how each ended."""
    processes = {}
    for number, work in enumerate(works):
        (folder / str(number)).mkdir()
        processes[work] = Watched(work, folder / str(number))
    while [work for work, process in processes.items() if process.runs()]:
        time.sleep(watchdog.SLICE)
    return {work: process.ended() for work, process in processes.items()}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """Return how all those ended that take seconds."""
    return watched(tmp_path_factory.mktemp("watched"), *WORKS_OR_WAITS, *HANGS, STOPS_ITSELF)


@pytest.mark.parametrize("work", WORKS_OR_WAITS)
def test_working_or_waiting_process_is_left_alone(work: str, ended: dict[str, Ended]) -> None:
    code, said, _ = ended[work]
    assert (code, said) == (0, "done\n")


@pytest.mark.parametrize("work", HANGS)
def test_hung_process_is_ended_and_line_named(work: str, ended: dict[str, Ended]) -> None:
    code, said, log = ended[work]
    assert (code, said) == (-signal.SIGKILL, "")
    error = watchdog.post_mortem("code.py", code, log)
    place = f"{log.parent / 'code.py'}:{LINE + work.count(chr(10))}"
    assert error.message == f"code.py made no progress for 2 s and was killed at {place}."


def test_stopped_process_is_ended(ended: dict[str, Ended]) -> None:
    code, _, log = ended[STOPS_ITSELF]
    assert code == -signal.SIGKILL
    assert "made no progress for 2 s" in watchdog.post_mortem("code.py", code, log).message


def test_segmentation_fault_names_line_of_its_thread(tmp_path: Path) -> None:
    thread = "import ctypes, threading\nthreading.Thread(target=time.sleep, args=(5,), daemon=True).start()\n"
    ((code, _, log),) = watched(tmp_path, f"{thread}ctypes.string_at(0)").values()
    assert code == -signal.SIGSEGV
    told = watchdog.post_mortem("It", code, log).message
    assert told == f"It was killed by SIGSEGV at {log.parent / 'code.py'}:{LINE + 2}."


@pytest.mark.parametrize(
    ("exitcode", "words"),
    [
        (-9, "SIGKILL; unless that was done by hand, this machine ran out of memory"),
        (-15, "SIGTERM."),
        (-40, "by signal 40."),
        (3, "with code 3"),
    ],
)
def test_signal_or_exit_code_is_named_without_log(exitcode: int, words: str, tmp_path: Path) -> None:
    assert words in watchdog.post_mortem("It", exitcode, tmp_path / "none").message


def test_ending_a_missing_process_does_nothing() -> None:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=int)
    process.start()
    process.join()
    assert process.pid
    watchdog.end_group(process.pid)
