"""Prove the CUDA path on a GPU, stage by stage, each with a limit of its own; results are written as they come.

  python3 tests/gpu/proof.py --seconds 400 environment gates digits     these stages
  python3 tests/gpu/proof.py                                            all of them

This file makes the environment ready, from .gpu/ where pack.py has left one, and becomes `stages.py`, which takes the
same arguments. README.md says how to use it.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PACKED = ROOT / ".gpu"


def packages() -> list[str]:
    """Return where to find what this Python lacks: the packed wheels, unpacked once."""
    if importlib.util.find_spec("optuna") or not (PACKED / "wheels").is_dir():
        return []
    target = PACKED / "site-packages"
    if not (target / "optuna").is_dir():
        wheels = [str(wheel) for wheel in sorted((PACKED / "wheels").glob("*.whl"))]
        options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--target", str(target)]
        subprocess.run([sys.executable, "-m", "pip", "install", *options, *wheels], check=True)
    return [str(target)]


def main() -> None:
    """Become the stages, in an environment in which the harness finds itself, its packages and its data."""
    found = {**os.environ, "PROOF_BEGAN": str(time.time()), "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
    found["MLFLOW_DISABLE_TELEMETRY"] = "true"
    if (PACKED / "data").is_dir():
        found.setdefault("HARNESS_DATA", str(PACKED / "data"))
    earlier = filter(None, [os.environ.get("PYTHONPATH", "")])
    found["PYTHONPATH"] = os.pathsep.join([*earlier, str(ROOT), *packages()])
    os.execve(sys.executable, [sys.executable, "-W", "ignore", str(HERE / "stages.py"), *sys.argv[1:]], found)


if __name__ == "__main__":
    main()
