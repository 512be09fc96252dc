"""Write a new architecture that passes check, to start from."""

from __future__ import annotations

import argparse
import keyword
from pathlib import Path

from harness.cli.console import console
from harness.errors import UsageError

TEMPLATE = '''"""Three convolutions, global average pooling and a linear layer."""

from torch import nn

# Overrides of the recipe, by field name; `python -m harness list` shows them all.
RECIPE = {"batch_size": 128, "lr": 0.05, "schedule": "linear"}


def build(*, width: int = 16, dropout: float = 0.05) -> nn.Module:
    """Return a network from (N, 1, 28, 28) float images to (N, 10) logits. The parameters are its knobs."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.Dropout(dropout),
        nn.Conv2d(2 * width, 2 * width, 3), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, 10),
    )
'''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the new file in architectures/")


def main(args: argparse.Namespace) -> int:
    name = args.name.removesuffix(".py")
    if not name.isidentifier() or keyword.iskeyword(name):
        raise UsageError(
            f"'{args.name}' cannot be the name of an architecture.",
            allowed="Allowed: letters, digits and underscores, not starting with a digit; not a Python keyword.",
            hint="Example: python -m harness new my_network",
        )
    path = Path("architectures") / f"{name}.py"
    path.parent.mkdir(exist_ok=True)
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(TEMPLATE)
    except FileExistsError:
        raise UsageError(f"{path} is already there.", hint="Choose another name.") from None
    console.print(f"wrote {path}\nnext: python -m harness check {path}\n      python -m harness run {path}")
    return 0
