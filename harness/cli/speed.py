"""Time training in turns with a plain PyTorch loop, and compare both with the limit of the machine.

The plain loop is the usual one: a DataLoader, and torchvision's transforms for each image. Both loops train the same
network by the same recipe, the harness as in a whole run: compiled if that pays off. A turn is an epoch; setup and
compilation are not timed. Nothing is recorded.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict

import torch

from harness import data, plugins, runs, speed, watchdog
from harness.cli import options, session
from harness.cli.console import console, new_table
from harness.errors import UsageError
from harness.speed import Roofline, Speed

EPOCHS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="architecture, such as architectures/s6_gap.py")
    parser.add_argument(
        "--epochs", type=int, metavar="E", help=f"epochs to time with each of the two loops (default: {EPOCHS})"
    )
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes that load images for the plain loop (default: 0)"
    )
    options.add_dataset(parser)
    options.add_set(parser)
    options.add_device(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON only")


def main(args: argparse.Namespace) -> int:
    device = session.choose_device(args.device)
    name = session.choose_dataset(args.dataset)
    architecture = plugins.load(args.file)
    knobs, recipe = options.parse_settings(architecture, options.settings(args.settings))
    epochs = min(EPOCHS, recipe.epochs) if args.epochs is None else args.epochs
    if not 1 <= epochs <= recipe.epochs:
        raise UsageError(f"--epochs {epochs} is out of range.", allowed=f"Allowed: 1 to {recipe.epochs}.")
    if args.workers < 0:
        raise UsageError(f"--workers {args.workers} is negative.", allowed="Allowed: 0 or more.")
    job = runs.jobs(architecture, knobs, recipe, data.load(name), range(1), device)[0]
    where = runs.device_name(torch.device(device))
    if not args.json:
        console.print(f"{architecture.name} on {name}, {where}, batches of {recipe.batch_size}; a turn is an epoch")
    for found in speed.measure(job, epochs, args.workers):
        watchdog.heartbeat()
        if isinstance(found, Speed):
            if args.json:
                about = {"device": where, "workers": args.workers, "unit": "images/s"}
                print(json.dumps(about | _as_json(found), indent=1))
            else:
                _show(found, args.workers)
        elif not args.json:
            who, images_per_second = found
            console.print(f"  {_NAMES[who]:<12}{images_per_second:>9,.0f} images/s")
    return 0


_NAMES = {"reference": "plain loop", "harness": "harness"}


def _as_json(found: Speed) -> dict[str, object]:
    facts = {{"mode": "arithmetic"}.get(name, name): value for name, value in asdict(found).items()}
    return facts | {
        "ratio": found.ratio,
        "ratios": found.ratios,
        "roofline": asdict(found.roofline) | {"images_per_second": found.roofline.images_per_second},
    }


def _show(found: Speed, workers: int) -> None:
    table = new_table("", "images/s", "from", "to", "s/epoch", right=("images/s", "from", "to", "s/epoch"))
    loading = f"plain loop, {workers} worker{'' if workers == 1 else 's'}"
    for who, speeds in ((loading, found.reference), (f"harness, {found.mode.label}", found.harness)):
        table.add_row(who, *_row(speeds, found.images))
    limit = found.roofline.images_per_second
    table.add_row("roofline", f"{limit:,.0f}", "", "", f"{found.images / limit:.2f}")
    console.print()
    console.print(table)
    spread = f"{min(found.ratios):.2f} to {max(found.ratios):.2f}"
    console.print(f"ratio {found.ratio:.2f}", style="bold", end="")
    console.print(f" ({spread}; median of {len(found.ratios)} pair{'s' if len(found.ratios) > 1 else ''} of turns)")
    console.print(_explain(found.roofline))


def _row(speeds: Sequence[float], images: int) -> tuple[str, ...]:
    middle = statistics.median(speeds)
    return f"{middle:,.0f}", f"{min(speeds):,.0f}", f"{max(speeds):,.0f}", f"{images / middle:.2f}"


def _explain(roofline: Roofline) -> str:
    memory, mode = roofline.bandwidth / roofline.bytes, roofline.rate / roofline.operations
    return (
        f"roofline: convolutions and linear layers move {roofline.bytes / 1000:,.0f} kB an image at "
        f"{roofline.bandwidth / 1e9:,.0f} GB/s ({memory:,.0f} images/s)\n"
        f"          and take {roofline.operations / 1e6:,.1f} million operations at "
        f"{roofline.rate / 1e9:,.0f} billion a second ({mode:,.0f} images/s); the lower one counts"
    )
