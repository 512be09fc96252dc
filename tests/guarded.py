"""Load and audit one file in a process with limits, in an empty folder: `python guarded.py FILE FOLDER` writes a JSON.

A process of its own stands between this one and the caller, so that a file that kills or stops its parent meets that.
The caller starts it in a session of its own, with a time limit, and kills that session at the end.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

LIMITS = {
    resource.RLIMIT_AS: 12 * 2**30,
    resource.RLIMIT_CPU: 60,
    resource.RLIMIT_FSIZE: 64 * 2**20,
    resource.RLIMIT_CORE: 0,
}
RESULT = "result.json"


def report(file: Path) -> dict[str, Any]:
    """Return rule and error with which a file is refused today, if it is, and what was counted."""
    from test_audit import examine

    from harness import plugins
    from harness.audit import enforce
    from harness.errors import HarnessError
    from harness.spec import BUDGET

    found: dict[str, Any] = {"rule": None, "parameters": None}
    try:
        ledger = examine(file).ledger
        found["parameters"] = ledger.parameters
        enforce(ledger, plugins.load(file).recipe, BUDGET)
    except HarnessError as error:
        found["rule"], found["message"] = getattr(error, "rule", type(error).__name__), error.message[:300]
    return found


def main() -> None:
    """Fork, load the file in the child and write its report; the parent waits."""
    file, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    work = folder / "work"  # a file that writes beside its folder stays inside the caller's
    (work / "tricks").mkdir(parents=True)
    copied = shutil.copy(file, work / "tricks")
    os.chdir(work)
    for limit, value in LIMITS.items():
        resource.setrlimit(limit, (value, value))
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    found = report(Path(copied))
    Path(folder / RESULT).write_text(json.dumps(found))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
