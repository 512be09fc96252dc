"""Pack what the GPU machine lacks into .gpu/, 12 MB: MNIST, and the wheels of optuna, pebble and colorlog.

python tests/gpu/pack.py            at the checkout's root; then carry .gpu along
"""

from __future__ import annotations

import argparse
import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".gpu"
WHEELS = ("optuna==5.0.0", "pebble==5.2.3", "colorlog==6.12.0")


def pack(folder: Path, data: Path, wheels: tuple[str, ...] = WHEELS) -> None:
    """Make `folder` again.

    Args:
        data: where MNIST/raw/ lies.
        wheels: pure Python packages, with their versions, as the machine can reach no registry.
    """
    shutil.rmtree(folder, ignore_errors=True)
    raw = folder / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (folder / ".gitignore").write_text("*\n")
    for file in sorted((data / "MNIST" / "raw").glob("*-ubyte")):
        with gzip.open(raw / f"{file.name}.gz", "wb", 9) as packed:
            packed.write(file.read_bytes())
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    (folder / "commit").write_text(commit.stdout)
    if wheels:
        target = ["--python-version", "3.12", "--implementation", "py", "--dest", str(folder / "wheels")]
        command = ["pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", *target, *wheels]
        subprocess.run([sys.executable, "-m", *command], check=True)


def main() -> None:
    """Pack, and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("HARNESS_DATA") or ROOT / "data"))
    args = parser.parse_args()
    if not (args.data / "MNIST" / "raw").is_dir():
        sys.exit(f"There is no MNIST/raw in {args.data}: set HARNESS_DATA.")
    pack(FOLDER, args.data)
    size = sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file())
    print(f"{FOLDER}: {size / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
