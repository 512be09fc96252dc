"""What ends a process is told apart, with its line; who waits for others is not taken for one that hangs."""

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


def watched(work: str, tmp_path: Path) -> tuple[int, str, Path]:
    """Do some work in a process with a patience of two seconds."""
    log, code = tmp_path / "log", tmp_path / "code.py"
    code.write_text(WATCHED.format(work=work))
    process = subprocess.Popen([sys.executable, str(code), str(log)], stdout=subprocess.PIPE, text=True)
    clock = watchdog.Watchdog(process.pid, log, 2.0)
    while process.poll() is None:
        time.sleep(watchdog.SLICE)
        clock.tick()
    return process.returncode, process.stdout.read() if process.stdout else "", log


@pytest.mark.parametrize(
    "work",
    [
        "time.sleep(1)",
        "for _ in range(4): time.sleep(1); watchdog.heartbeat()",
        "with watchdog.paused(): time.sleep(4)",
    ],
)
def test_who_gets_on_or_waits_for_others_is_left_alone(work: str, tmp_path: Path) -> None:
    code, said, _ = watched(work, tmp_path)
    assert (code, said) == (0, "done\n")


@pytest.mark.parametrize(
    "work",
    [
        "time.sleep(50)",
        "while True: pass",
        "with watchdog.paused(): pass\ntime.sleep(50)",
        "import re; re.match(r'(a+)+$', 'a' * 60 + 'b')",  # never lets go of the interpreter
        "import faulthandler; faulthandler.cancel_dump_traceback_later(); time.sleep(50)",
    ],
)
def test_who_gets_no_further_is_ended_and_the_line_is_named(work: str, tmp_path: Path) -> None:
    code, said, log = watched(work, tmp_path)
    assert (code, said) == (-signal.SIGKILL, "")
    error = watchdog.post_mortem("code.py", code, log)
    place = f"{tmp_path / 'code.py'}:{LINE + work.count(chr(10))}"
    assert error.message == f"code.py got no further for 2 s, and was ended at {place}."


def test_one_that_stopped_itself_is_ended_too(tmp_path: Path) -> None:
    code, _, log = watched("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", tmp_path)
    assert code == -signal.SIGKILL
    assert "got no further for 2 s" in watchdog.post_mortem("code.py", code, log).message


def test_a_segmentation_fault_names_the_line_of_the_thread_that_had_it(tmp_path: Path) -> None:
    thread = "import ctypes, threading\nthreading.Thread(target=time.sleep, args=(5,), daemon=True).start()\n"
    code, _, log = watched(f"{thread}ctypes.string_at(0)", tmp_path)
    assert code == -signal.SIGSEGV
    told = watchdog.post_mortem("It", code, log).message
    assert told == f"It was ended by SIGSEGV at {tmp_path / 'code.py'}:{LINE + 2}."


@pytest.mark.parametrize(
    ("exitcode", "words"),
    [
        (-9, "SIGKILL; unless somebody did that, this machine ran out of memory"),
        (-15, "SIGTERM."),
        (-40, "by signal 40."),
        (3, "exit code 3"),
    ],
)
def test_without_a_log_the_signal_or_the_exit_code_is_named(exitcode: int, words: str, tmp_path: Path) -> None:
    assert words in watchdog.post_mortem("It", exitcode, tmp_path / "none").message


def test_of_no_process_or_group_that_is_not_there_anything_is_ended() -> None:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=int)
    process.start()
    process.join()
    assert process.pid
    watchdog.end_group(process.pid)
