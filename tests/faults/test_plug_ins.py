"""What a plug-in does to its process is reported with its line, and the other files are none the worse."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from conftest import TINY, is_alive
from processes import harness, until

from harness.journal import all_journals

pytestmark = pytest.mark.slow

LINE = TINY.splitlines().index("    return nn.Sequential(") + 1
CHILD = "import subprocess; print('child', subprocess.Popen(['sleep', '600']).pid, flush=True)"


def write(name: str, *lines: str) -> str:
    """Write tiny.py with more lines at the beginning of build."""
    Path(name).write_text(
        TINY.replace(
            "    return nn.Sequential(", "\n".join(f"    {line}" for line in (*lines, "return nn.Sequential("))
        )
    )
    return name


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    said = process.stdout.read() if process.stdout else ""
    return process.wait(), said


def test_files_that_break_their_process_do_not_stop_the_others(workplace: Path) -> None:
    write("segfault.py", "import ctypes; ctypes.string_at(0)")
    write("exits.py", "import os; os._exit(0)")
    write("killed.py", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    write("raises.py", "1 / 0")
    write("forks.py", "import os; os.fork()")
    files = ("segfault.py", "exits.py", "killed.py", "raises.py", "forks.py", "tiny.py")
    code, said = ended(harness(workplace, "run", *files, "--dataset", "digits"))
    assert code == 8
    assert f"segfault.py was ended by SIGSEGV at segfault.py:{LINE}." in said
    assert "exits.py ended itself, with exit code 0." in said
    assert "killed.py was ended by SIGKILL" in said
    assert f"ZeroDivisionError: division by zero (raises.py:{LINE})" in said
    assert f"[forks] The file makes a copy of the process. (forks.py:{LINE})" in said
    assert "Traceback" not in said
    (journal,) = all_journals()
    record = journal.read()
    assert record
    assert (record.job.name, record.state) == ("tiny", "finished")


def test_one_that_hangs_is_given_up_with_its_children(workplace: Path) -> None:
    write("hangs.py", CHILD, "while width: pass")
    process = harness(workplace, "check", "hangs.py", "--hang-timeout", "4")
    child = int(until(process, "child").split()[-1])
    assert is_alive(child)
    code, said = ended(process)
    assert code == 8
    assert f"hangs.py got no further for 4 s, and was ended at hangs.py:{LINE + 1}." in said
    assert not is_alive(child)


def test_what_a_plug_in_does_to_be_left_alone_does_not_help_it(workplace: Path) -> None:
    write("signal40.py", "import os; os.kill(os.getpid(), 40)")
    write("ctrl_c.py", "raise KeyboardInterrupt")
    write("stopped.py", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)")
    write("handlers.py", "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)")
    write("streams.py", "import sys; sys.stdout = None")
    write("threads.py", "import threading, time; threading.Thread(target=time.sleep, args=(600,)).start()")
    files = ("signal40.py", "ctrl_c.py", "stopped.py", "handlers.py", "streams.py", "threads.py", "tiny.py")
    code, said = ended(harness(workplace, "check", *files, "--hang-timeout", "8"))
    assert code == 130
    assert "signal40.py was ended by signal 40." in said
    assert "ctrl_c.py: Stopped." in said
    assert "stopped.py got no further for 8 s, and was ended" in said
    assert "[global-state] The file changes what signals do for everybody. (handlers.py)" in said
    assert "[global-state] The file changes the standard streams for everybody. (streams.py)" in said
    assert said.splitlines()[-7:] == [
        f"{words:<24}{file}"
        for words, file in zip(
            ("broke down", "stopped", "broke down", "not legal", "not legal", "done", "done"), files, strict=True
        )
    ]
    assert "Traceback" not in said


def test_what_a_plug_in_leaves_running_ends_with_its_run(workplace: Path) -> None:
    write("leaves.py", CHILD)
    process = harness(workplace, "check", "leaves.py")
    child = int(until(process, "child").split()[-1])
    assert ended(process)[0] == 0
    assert not is_alive(child)


def test_a_run_whose_process_dies_in_training_says_at_once_what_ended_it(workplace: Path) -> None:
    process = harness(workplace, "run", "tiny.py", "--dataset", "digits", "--epochs", "19", "--set", "batch_size=3")
    until(process, "epoch  1/19")
    (journal,) = all_journals()
    record = journal.read()
    assert record
    os.kill(record.process["pid"], 11)
    code, said = ended(process)
    assert code == 8
    assert "tiny.py was ended by SIGSEGV." in said
    record = journal.read()
    assert record
    assert record.ended
    assert (record.state, record.ended["reason"]) == ("interrupted", "tiny.py was ended by SIGSEGV.")


def test_a_mistake_on_the_command_line_is_said_once_for_all_files(workplace: Path) -> None:
    code, said = ended(harness(workplace, "run", "tiny.py", "tiny.py", "--dataset", "digits", "--seeds", "0"))
    assert code == 2
    assert said.count("--seeds 0 is out of range") == 1


def test_memory_that_cannot_be_had_is_a_verdict_of_its_own(workplace: Path) -> None:
    write("large.py", "import torch; torch.zeros(2**48)")
    code, said = ended(harness(workplace, "run", "large.py", "--dataset", "digits"))
    assert code == 8
    assert "large.py ran out of memory" in said
    assert all_journals() == []
