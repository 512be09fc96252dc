"""``python -m harness``."""

import gc
import sys

from harness.cli import main


def run() -> int:
    """Run the command line in a process of its own."""
    # Imports and exports make many objects and little garbage; looking for it costs each command a second.
    gc.set_threshold(200_000, 20, 100)
    return main()


if __name__ == "__main__":
    sys.exit(run())
