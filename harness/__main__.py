"""The entry point of ``python -m harness``."""

import gc
import os
import sys

from harness.cli import main


def run() -> int:
    """Run the command line and return its exit code."""
    # Imports and exports make many objects and little garbage; collecting it costs each command a second.
    gc.set_threshold(200_000, 20, 100)
    # A closed stream (`>&-`) is None: its output is discarded.
    nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  open until the process ends
    sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
    code = main(isolated=True)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # a full disk: discard the rest, or Python would end with another exit code
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code


if __name__ == "__main__":
    sys.exit(run())
