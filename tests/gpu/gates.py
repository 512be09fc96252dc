"""Audit a network as a run on a device does, and say what arithmetic it gets: gates.py FILE SEED DEVICE DATASET.

Prints a line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
import traceback

import inside


def gate(path: str, seed: int, device: str, dataset: str) -> dict[str, object]:
    """Return how long it took, what was chosen, and how far two layouts of the network are apart on the device."""
    began = time.perf_counter()
    found = inside.ready(path, dataset, device, seed=seed)
    seconds = round(time.perf_counter() - began, 2)
    apart = [f"{distance:.1e}" for distance in inside.far_apart(found)]
    return {"arithmetic": found.chosen.label, "seconds": seconds, "apart": apart}


def main(path: str, seed: str, device: str, dataset: str) -> None:
    """Print what was found, or the error."""
    found: dict[str, object] = {"file": path, "seed": int(seed)}
    try:
        found |= gate(path, int(seed), device, dataset)
    except Exception:
        found["error"] = traceback.format_exc()[-900:]
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
