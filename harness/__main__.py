"""``python -m harness``."""

import gc
import os
import sys

from harness.cli import main


def run() -> int:
    """Run the command line in a process of its own."""
    # Imports and exports make many objects and little garbage; looking for it costs each command a second.
    gc.set_threshold(200_000, 20, 100)
    # A closed stream (`>&-`) is None: what is written there is meant to be lost.
    nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  for as long as we run
    sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
    code = main(apart=True)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # a full disk: what is left to write is lost, or Python would end with a code of its own
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code


if __name__ == "__main__":
    sys.exit(run())
