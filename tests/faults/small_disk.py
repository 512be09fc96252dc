"""Runs on a disk of 12 MB that is full, or may not be written to, from the second epoch on; then on it goes.

python small_disk.py FOLDER full|read-only   (as root of a namespace of its own: unshare --user --map-root-user --mount)

Prints what the harness said, and as the last line what became of it, as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from processes import harness, until

from harness.journal import all_journals

RUN = ("run", "tiny.py", "--dataset", "digits", "--epochs", "6", "--set", "batch_size=3", "--set", "lr=0.01")


def fill(place: Path) -> None:
    """Leave no room for a single byte."""
    size = 2**20
    with open(place / "filler", "ab", buffering=0) as file:
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2


def states() -> list[str]:
    return [record.state for journal in all_journals() if (record := journal.read())]


def heard(process: subprocess.Popen[str]) -> tuple[int, str]:
    said = process.stdout.read() if process.stdout else ""
    return process.wait(), said


def fills_up(place: Path) -> tuple[int, str]:
    """Train until the disk is full."""
    process = harness(place, *RUN)
    until(process, "epoch  2/6")
    fill(place)
    return heard(process)


def is_read_only(place: Path) -> tuple[int, str]:
    """Stop a run, and try to go on with it where nothing may be written."""
    process = harness(place, *RUN)
    until(process, "epoch  2/6")
    process.send_signal(signal.SIGINT)
    process.wait()
    remount(place, "ro")
    return heard(harness(place, *RUN))


def remount(place: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(place)], check=True)


def main(place: Path, fault: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(place)], check=True)
    os.chdir(place)
    code, said = fills_up(place) if fault == "full" else is_read_only(place)
    left = states()
    remount(place, "rw")
    (place / "filler").unlink(missing_ok=True)
    code_again, said_again = heard(harness(place, *RUN))
    print(said + said_again)
    parts = [str(file.name) for journal in all_journals() for file in journal.folder.glob("*.part")]
    print(json.dumps({"code": code, "left": left, "code_again": code_again, "states": states(), "parts": parts}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
