"""Count the nodes of a captured training step, and the kernels of scoring, for each architecture, on a pretended GPU.

  python tests/gpu/nodes.py [--detail] [--dataset mnist] [FILE ...]

Of every file of architectures/ by default, by its own recipe: a step of a whole batch, in an epoch that augments if
any does; what an epoch of one batch launches beside its steps; scoring all held-out images. Each kernel, copy and fill
counts as one, and each call of cuBLAS or cuDNN, which on a GPU may launch several kernels.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pretended

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = "{:<20} {:<13} {:>6} {:>6} {:>9} {:>5} {:>6} {:>8}  {}"
UNDER_THE_RUNTIME = "NODES_UNDER_THE_RUNTIME"


@dataclass(frozen=True)
class Found:
    """What one architecture launches, by (kind, name)."""

    about: tuple[object, ...]
    step: Counter[tuple[str, str]]
    epoch: Counter[tuple[str, str]]
    scoring: Counter[tuple[str, str]]
    how: str


def count(path: Path, dataset: str) -> Found:
    """Prepare the training of one architecture, as a run does, and count."""
    import inside  # loads torch, which only a process under the runtime should

    found = inside.ready(str(path), dataset, "cuda", one_batch=True)
    earlier = len(pretended.counts().graphs)
    steps = inside.Steps(found)
    captured = pretended.counts().graphs[earlier:]
    pretended.reset()
    steps.epoch()
    epoch = pretended.counts().outside
    pretended.reset()
    steps.score()
    recipe = found.recipe
    optimizer = recipe.optimizer + (" nesterov" if recipe.nesterov else "")
    about = (found.job.name, optimizer, recipe.ema or "-", recipe.batch_size, "yes" if recipe.augments else "-")
    step = captured[0].nodes if captured else Counter()
    return Found(about, step, epoch, pretended.counts().outside, found.chosen.label)


def show(found: Found, detail: bool) -> None:
    """Print one row, and under it each kernel by name."""
    parts = {"a step": found.step, "an epoch beside its steps": found.epoch, "scoring": found.scoring}
    print(COLUMNS.format(*found.about, *(pretended.work(part) for part in parts.values()), found.how), flush=True)
    for title, part in parts.items() if detail else ():
        print(f"  {title}:")
        launched = [(times, kind, name) for (kind, name), times in part.most_common() if kind != "call"]
        names = pretended.plain_names([name for _, _, name in launched])
        for (times, kind, _), name in zip(launched, names, strict=True):
            print(f"  {times:>6} {kind:<8} {name[:260]}")


def main(arguments: Sequence[str]) -> None:
    """Count under the runtime, which a first process has to start."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--detail", action="store_true", help="print each kernel by name")
    args = parser.parse_args(arguments)
    if UNDER_THE_RUNTIME not in os.environ:
        os.environ[UNDER_THE_RUNTIME] = "1"
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), str(ROOT)]))
        pretended.become(["-W", "ignore", __file__, *arguments])
    print(COLUMNS.format("architecture", "optimiser", "ema", "batch", "augments", "step", "epoch", "scoring", ""))
    for path in args.files or sorted((ROOT / "architectures").glob("*.py")):
        show(count(path, args.dataset), args.detail)


if __name__ == "__main__":
    main(sys.argv[1:])
