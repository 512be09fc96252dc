"""What ends a process is told apart, with its line; who waits for others is not taken for one that hangs."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness import supervision

WATCHED = """
import sys, time
from pathlib import Path
from harness import supervision
supervision.watch(Path(sys.argv[1]), 1.0)
{work}
print("done")
"""


def watched(work: str, tmp_path: Path) -> tuple[int, str, Path]:
    log = tmp_path / "log"
    code = tmp_path / "code.py"
    code.write_text(WATCHED.format(work=work))
    done = subprocess.run([sys.executable, str(code), str(log)], capture_output=True, text=True)
    return done.returncode, done.stdout, log


@pytest.mark.parametrize(
    "work",
    [
        "time.sleep(0.5)",
        "for _ in range(4): time.sleep(0.5); supervision.gets_on()",
        "with supervision.at_rest(): time.sleep(1.5)",
    ],
)
def test_who_gets_on_or_waits_for_others_is_left_alone(work: str, tmp_path: Path) -> None:
    code, said, _ = watched(work, tmp_path)
    assert (code, said) == (0, "done\n")


@pytest.mark.parametrize(
    "work", ["time.sleep(5)", "while True: pass", "with supervision.at_rest(): pass\ntime.sleep(5)"]
)
def test_who_gets_no_further_is_ended_and_the_line_is_named(work: str, tmp_path: Path) -> None:
    code, said, log = watched(work, tmp_path)
    assert (code, said) == (1, "")
    line = WATCHED.splitlines().index("{work}") + work.count("\n") + 1
    error = supervision.post_mortem("code.py", code, log)
    assert error.wrong == f"code.py got no further for too long, and was ended at {tmp_path / 'code.py'}:{line}."


def test_a_segmentation_fault_names_the_line_of_the_thread_that_had_it(tmp_path: Path) -> None:
    thread = "import ctypes, threading\nthreading.Thread(target=time.sleep, args=(5,), daemon=True).start()\n"
    code, _, log = watched(f"{thread}ctypes.string_at(0)", tmp_path)
    assert code == -signal.SIGSEGV
    line = WATCHED.splitlines().index("{work}") + 3
    assert (
        supervision.post_mortem("It", code, log).wrong == f"It was ended by SIGSEGV at {tmp_path / 'code.py'}:{line}."
    )


@pytest.mark.parametrize(
    ("exitcode", "words"),
    [(-9, "SIGKILL; unless somebody did that, this machine ran out of memory"), (-15, "SIGTERM."), (3, "exit code 3")],
)
def test_without_a_log_the_signal_or_the_exit_code_is_named(exitcode: int, words: str, tmp_path: Path) -> None:
    assert words in supervision.post_mortem("It", exitcode, tmp_path / "none").wrong


def test_of_no_process_or_group_that_is_not_there_anything_is_ended() -> None:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=int)
    process.start()
    process.join()
    assert process.pid
    supervision.end_group(process.pid)
