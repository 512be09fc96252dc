"""What a plug-in does to its process is reported with its line, and the other files are none the worse."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import TINY
from preloaded import Process
from processes import harness, until

from harness.journal import all_journals

LINE = TINY.splitlines().index("    return nn.Sequential(") + 1


def write(name: str, *lines: str) -> str:
    """Write tiny.py with more lines at the beginning of build."""
    Path(name).write_text(
        TINY.replace(
            "    return nn.Sequential(", "\n".join(f"    {line}" for line in (*lines, "return nn.Sequential("))
        )
    )
    return name


def ended(process: Process) -> tuple[int, str]:
    said = process.stdout.read() if process.stdout else ""
    return process.wait(), said


@pytest.mark.quick
def test_crashing_files_do_not_stop_the_others(workplace: Path) -> None:
    write("segfault.py", "import ctypes; ctypes.string_at(0)")
    write("exits.py", "import os; os._exit(0)")
    write("killed.py", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    write("raises.py", "1 / 0")
    write("forks.py", "import os; os.fork()")
    files = ("segfault.py", "exits.py", "killed.py", "raises.py", "forks.py", "tiny.py")
    code, said = ended(harness(workplace, "run", *files, "--dataset", "digits"))
    assert code == 8
    assert f"segfault.py was ended by SIGSEGV at segfault.py:{LINE}." in said
    assert "exits.py ended by itself, with code 0." in said
    assert f"Operation not permitted (killed.py:{LINE})" in said
    assert f"ZeroDivisionError: division by zero (raises.py:{LINE})" in said
    assert f"Operation not permitted (forks.py:{LINE})" in said
    assert "Traceback" not in said
    (journal,) = all_journals()
    record = journal.read()
    assert record
    assert (record.job.name, record.state) == ("tiny", "finished")


def test_hung_plug_in_is_ended_and_named_with_its_line(workplace: Path) -> None:
    write("hangs.py", "while width: pass")
    code, said = ended(harness(workplace, "check", "hangs.py", "--hang-timeout", "20"))
    assert code == 8
    assert f"hangs.py did not end within 10 s at hangs.py:{LINE}." in said


def test_plug_in_cannot_escape_isolation(workplace: Path) -> None:
    write("signal40.py", "import os; os.kill(os.getpid(), 40)")
    write("ctrl_c.py", "raise KeyboardInterrupt")
    write("starts.py", "import subprocess, sys; subprocess.run([sys.executable])")
    write("handlers.py", "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)")
    write("streams.py", "import sys; sys.stdout = None")
    write("threads.py", "import threading, time; threading.Thread(target=time.sleep, args=(600,)).start()")
    refused, harmless = (
        ("signal40.py", "ctrl_c.py", "starts.py"),
        ("handlers.py", "streams.py", "threads.py", "tiny.py"),
    )
    code, said = ended(harness(workplace, "check", *refused, *harmless))
    assert code == 2
    assert f"KeyboardInterrupt (ctrl_c.py:{LINE})" in said
    ends = [f"{'usage or contract':<24}{file}" for file in refused] + [f"{'done':<24}{file}" for file in harmless]
    assert said.splitlines()[-7:] == ends
    assert "Traceback" not in said


def test_run_reports_the_signal_that_ended_it(workplace: Path) -> None:
    process = harness(workplace, "run", "tiny.py", "--dataset", "digits", "--epochs", "19", "--set", "batch_size=3")
    until(process, "epoch  1/19")
    (journal,) = all_journals()
    record = journal.read()
    assert record
    os.kill(record.process["pid"], 11)
    code, said = ended(process)
    assert code == 8
    assert "tiny.py was killed by SIGSEGV." in said
    record = journal.read()
    assert record
    assert record.ended
    assert (record.state, record.ended["reason"]) == ("interrupted", "tiny.py was killed by SIGSEGV.")


@pytest.mark.quick
def test_usage_error_is_printed_once_for_all_files(workplace: Path) -> None:
    code, said = ended(harness(workplace, "run", "tiny.py", "tiny.py", "--dataset", "digits", "--seeds", "0"))
    assert code == 2
    assert said.count("--seeds 0 is out of range") == 1


def test_out_of_memory_is_named(workplace: Path) -> None:
    write("large.py", "import torch; torch.zeros(2**48)")
    code, said = ended(harness(workplace, "run", "large.py", "--dataset", "digits"))
    assert code == 8
    assert "large.py ran out of memory" in said
    assert all_journals() == []
