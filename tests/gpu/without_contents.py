"""Steps for a CUDA graph on tensors without contents: what depends on contents, or turns to the host, shows.

Run under the pretended GPU, as `python tests/gpu/without_contents.py`: torch's autograd asks for a device. It prints a
line of JSON for each file of architectures/ and two optimisers, with the operators that turned to the host, and
one for each network that must be found out, with what found it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.fx import GraphModule
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from harness import plugins, training
from harness.audit import Audit, audit, over_the_same_tensors
from harness.data import Dataset, Split
from harness.runs import inspect
from harness.spec import ComputeMode, Recipe
from harness.training import memory_layout
from harness.training.folding import fold

CAPTURED = ComputeMode("bfloat16", channels_last=True, execution="captured")

OPTIMISERS: list[dict[str, Any]] = [
    {"optimizer": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": 0.0},
    {"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
    {"optimizer": "adamw", "momentum": 0.9, "nesterov": False, "weight_decay": 1e-2, "lr": 1e-3},
]


class Moves(TorchDispatchMode):
    """Notes operators that take a tensor from the host to the device, or back."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = operator(*args, **(kwargs or {}))
        tensors = [leaf for leaf in _pytree.tree_leaves((args, kwargs, made)) if isinstance(leaf, Tensor)]
        if len({tensor.device.type for tensor in tensors}) > 1:
            self.seen.append(str(operator))
        return made


class ReadsANumber(nn.Module):
    """Reads a number of its own back from the device."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("share", torch.ones(()))
        self.head = nn.Linear(784, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.flatten(1) * self.share.item())


class PicksByABuffer(nn.Module):
    """Makes a tensor whose size depends on the values of another."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("chosen", torch.arange(784) % 2 == 0)
        self.head = nn.Linear(392, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.flatten(1)[:, self.chosen].reshape(images.shape[0], 392))


class HoldsATable(nn.Module):
    """Writes a table into its code, which Python would make on the host: its graph has it on the device."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.flatten(1)) * torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10])


def dataset() -> Dataset:
    """Seventy images: steps of 32, 32 and 6."""
    split = Split(torch.zeros(70, 28, 28, dtype=torch.uint8), torch.zeros(70, dtype=torch.int64))
    return Dataset("made up", "", 0.3, 0.3, False, split, split)


def host_calls(found: Audit, network: nn.Module, recipe: Recipe) -> list[str]:
    """Take a step of each size on a GPU, and return the operators that turned to the host."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        device = torch.device("cuda")
        graph = found.graphs(network, device).train
        average = training.Average(graph, recipe.ema) if recipe.ema else None
        trained = over_the_same_tensors(graph)
        steps = training.Steps(trained, dataset().to(device), recipe, CAPTURED, average)
        steps._warm_up()  # the optimiser makes its state in the first one
        with Moves() as moves:
            steps._warm_up()
    return moves.seen


def of_architectures() -> Iterator[dict[str, object]]:
    """Take the steps of every file with two optimisers, of all six, with averaging and without, in turn."""
    turns = cycle(product(OPTIMISERS, (0.0, 0.99)))
    for file in sorted(Path("architectures").glob("*.py")):
        architecture = plugins.execute(file.read_text(), str(file))
        found, network = inspect(architecture, architecture.knobs).audit, architecture.build()
        for optimiser, ema in islice(turns, 2):
            recipe = replace(architecture.recipe, **{"batch_size": 32, "ema": ema, **optimiser})
            about = {"network": file.stem, "optimizer": recipe.optimizer, "nesterov": recipe.nesterov, "ema": ema}
            yield about | {"found": host_calls(found, network, recipe)}


def of_culprits() -> Iterator[dict[str, object]]:
    """Take the steps of networks that no CUDA graph can hold, or that look so."""
    with FakeTensorMode(), Moves() as moves:
        torch.ones(3).to("cuda")
    yield {"network": "a copy from the host", "found": moves.seen}
    for network in (ReadsANumber(), PicksByABuffer(), HoldsATable()):
        try:
            found = host_calls(audit(network, "here.py"), network, Recipe(batch_size=32))
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            found = [type(error).__name__]
        yield {"network": type(network).__name__, "found": found}


def _fold(network: GraphModule) -> None:
    """Fold as a training does, with tables that have contents: they are made before the first step."""
    with unset_fake_temporarily():
        fold(network)


def main() -> None:
    """Print what is found, a line each."""
    memory_layout.fold = _fold  # type: ignore[attr-defined]
    training.Steps._capture = lambda _: None  # type: ignore[method-assign]  steps are taken, not captured
    for line in (*of_architectures(), *of_culprits()):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
