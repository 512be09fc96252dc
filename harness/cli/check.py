"""Audit architectures and show their layers, without training.

Counts every number that the exported network stores, shows which of batch norm, dropout, fully connected layer,
global average pooling and 1x1 convolution it uses, and refuses a network over the budget. It also reports what would
slow down its training on this CPU. With --device it prepares training on that device and reports the compute mode, and
which operators may give different bits each time.
"""

from __future__ import annotations

import argparse
import contextlib
from dataclasses import replace

import torch
from torch.fx import GraphModule

from harness import audit, data, plugins, runs
from harness.cli import options, progress, session
from harness.cli.console import console, print_layers, print_ledger, print_model, warn_of_softmax
from harness.cli.exit import report
from harness.errors import HarnessError
from harness.spec import BUDGET, Architecture, Knob, Recipe
from harness.training import choose_compatible, compute

BATCH = 128
"""Batch size of the warm-up."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_files(parser)
    options.add_set(parser)
    options.add_device(parser, None, "also prepare training on this device and report how (default: audit only)")
    options.add_hang_timeout(parser)


def main(args: argparse.Namespace) -> int:
    given = options.settings(args.settings)
    (path,) = args.files  # several files run in a process each
    try:
        _check(path, given, args.device)
    except HarnessError as error:  # about this file; the others are still checked
        report(error)
        return error.exit_code
    return 0


def _check(path: str, given: dict[str, str], device: str | None) -> None:
    device = device and session.choose_device(device)
    architecture = plugins.load(path)
    knobs, recipe = options.parse_settings(architecture, given)
    inspected = runs.inspect(architecture, knobs)
    found, model = inspected.audit, inspected.model
    console.rule(f"{architecture.name}", align="left")
    session.note_isolation()
    console.print(architecture.summary)
    print_layers(model)
    print_ledger(found.ledger)
    print_model(model)
    warn_of_softmax(model)
    audit.enforce(found.ledger, recipe, BUDGET)
    train = found.train.module()
    audit.refuse_uneven_batches(train, recipe.batch_size, path)
    if demanded := audit.condition(train):
        console.print(f"in training a batch {demanded}; batch_size {recipe.batch_size} suits MNIST")
    if device:
        _warm_up(architecture, knobs, recipe, device, train)
    else:
        graphs = found.own_graphs(torch.device("cpu"))
        choice = choose_compatible(compute.mode_for_this_machine("cpu", 0), graphs.train, graphs.evaluation, path)
        if choice.because:
            console.print(f"trains more slowly on this CPU: {choice.because}")
    console.print("passes", style="green", end="")
    console.print(
        f": {found.ledger.parameters:,} parameters of {BUDGET.parameters:,}, "
        f"{recipe.epochs} epochs of {BUDGET.epochs} (protocol {BUDGET.protocol})"
    )


def _warm_up(
    architecture: Architecture, knobs: dict[str, Knob], recipe: Recipe, device: str, train: GraphModule
) -> None:
    """Prepare training on the digits dataset, which is always available, and report how it is computed."""
    digits = data.load("digits")
    size = audit.suitable_batch_size(train, len(digits.train.labels), BATCH)
    if size is None:
        console.print("how it trains cannot be tried on digits: no batch_size works there")
        return
    ready = runs.jobs(architecture, knobs, replace(recipe, batch_size=size), digits, range(1), device)
    with contextlib.closing(runs.train(ready[0])) as events, runs.raising_crashes(ready[0]):
        started = next(events)
    assert isinstance(started, runs.Started)
    console.print(f"trains on {started.device_name}, {started.mode.label}")
    for remark in progress.remarks(replace(started, untrained=0.0)):  # meaningless for so few images
        console.print(remark)
