"""Audit a network: run all checks in order, and return its ledger and its two graphs.

The package's docstring explains what is counted and why. Every refusal names its rule, the line that causes it and
a fix. A network is audited on the CPU, whatever device trains it, so that its ledger is the same on every machine.
One audit, of a network built from a fixed seed, serves every seed: `Audit.graphs` copies the parameters of a newly
built network into the two graphs.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from harness.audit.batch import refuse_batch_dependence
from harness.audit.count import Ledger, count
from harness.audit.export import (
    export,
    refuse_change_at_evaluation,
    refuse_foreign_operators,
)
from harness.audit.forward import probe_forward
from harness.audit.graph import every_tensor, on_device
from harness.audit.mailbox import refuse_mailboxes
from harness.audit.probe import (
    TOLERANCE,
    digit_like_images,
    gist,
    made_up_images,
    nudged,
    one_step,
    quiet,
    relative_distance,
    restored,
)
from harness.audit.sizes import step_size
from harness.audit.state import refuse_other_state, refuse_storage
from harness.errors import AuditError, BudgetError, ContractError
from harness.spec import Budget, Recipe

LARGER_BATCH = 30
"""Images in the largest batch that is evaluated of images that look like digits."""


@dataclass(frozen=True, eq=False)
class Graphs:
    """The two graphs of an audited network on one device. They share parameters and buffers: training moves both."""

    train: GraphModule
    evaluation: GraphModule


@dataclass(frozen=True, eq=False)
class Audit:
    """A network that passed the audit: its ledger, and the two graphs that are trained and scored.

    It can be pickled for another process of the same user.

    Attributes:
        ledger: the numbers that the network stores.
        train, evaluation: its export in each mode.
    """

    ledger: Ledger
    train: ExportedProgram
    evaluation: ExportedProgram

    def graphs(self, network: nn.Module, device: torch.device) -> Graphs:
        """Return the graphs on `device` with copies of the tensors of `network`, the same network of any seed."""
        numbers = _copies(network, device)
        graphs = (on_device(program.module(), device) for program in (self.train, self.evaluation))
        return Graphs(*(_filled(graph, numbers) for graph in graphs))

    def own_graphs(self, device: torch.device) -> Graphs:
        """Return the graphs on `device` with copies of the tensors of the audited network."""
        return self.graphs(self.train.module(), device)

    def __reduce__(self) -> tuple[Callable[..., Self], tuple[Ledger, bytes, bytes]]:
        return type(self)._loaded, (self.ledger, _saved(self.train), _saved(self.evaluation))

    @classmethod
    def _loaded(cls, ledger: Ledger, train: bytes, evaluation: bytes) -> Self:
        return cls(ledger, *(torch.export.load(io.BytesIO(program)) for program in (train, evaluation)))


def _saved(program: ExportedProgram) -> bytes:
    stream = io.BytesIO()
    torch.export.save(program, stream)
    return stream.getvalue()


def _copies(network: nn.Module, device: torch.device) -> dict[str, Tensor]:
    """Copy every parameter, buffer and constant, by all of its names; shared tensors stay shared."""
    found: dict[str, Tensor] = {}
    made: dict[int, Tensor] = {}
    for name, tensor in (*every_tensor(network), *_constants(network)):
        if id(tensor) not in made:
            copied = tensor.detach().to(device, copy=True)
            is_parameter = isinstance(tensor, nn.Parameter)
            made[id(tensor)] = nn.Parameter(copied, tensor.requires_grad) if is_parameter else copied
        found[name] = made[id(tensor)]
    return found


def _constants(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that modules hold as plain attributes, by their names."""
    for layer, module in network.named_modules():
        for short, value in vars(module).items():
            if isinstance(value, Tensor):
                yield f"{layer}.{short}".lstrip("."), value


def _filled(graph: GraphModule, numbers: Mapping[str, Tensor]) -> GraphModule:
    """Replace the graph's tensors, in place, by those of the same names in `numbers`, and return it."""
    for name, _ in (*every_tensor(graph), *_constants(graph)):
        if name not in numbers:  # a table that the forward of a plain module makes; that of a submission has a name
            continue
        layer, _, short = name.rpartition(".")
        holder = graph.get_submodule(layer)
        setattr(holder, short, numbers[name])
        holder._non_persistent_buffers_set.discard(short)  # a checkpoint needs all of them
    return graph


Exporter = Callable[[nn.Module, bool, str], ExportedProgram]


def audit(network: nn.Module, path: str, exporter: Exporter = export) -> Audit:
    """Export `network`, built by the plug-in at `path`, and count what it stores.

    Args:
        network: maps (N, 1, 28, 28) float images to (N, 10) logits; on the CPU.
        path: file name for messages.
        exporter: exports it in a mode, and adds lines and layers to the graph.

    Raises:
        ContractError: a wrong output, or a `forward` that raises.
        AuditError: the network hides state, is random or changes when scored, cannot be exported, or lets a
            prediction depend on other images.
        UsageError: torch cannot write its cache.
    """
    probe_forward(network, path)
    train = exporter(network, True, path)
    refuse_foreign_operators(train, path)
    refuse_storage(train, path)
    evaluation = exporter(network, False, path)
    refuse_foreign_operators(evaluation, path)
    refuse_storage(evaluation, path)
    refuse_change_at_evaluation(evaluation, path)
    refuse_other_state(train, path)
    refuse_mailboxes(network, train, path)
    found = Audit(count(network, train, evaluation, path), train, evaluation)
    scored, images, digits = evaluation.module(), made_up_images(12), digit_like_images(12)
    refuse_unfaithful(network, train.module(), scored, path)
    refuse_batch_dependence(scored, images, path)
    for direction in (1, -1):  # so that gates that start near zero are open in one of them
        with nudged(network, direction):
            refuse_batch_dependence(scored, images, path, largest_batch=100)
    refuse_batch_dependence(scored, digits, path, largest_batch=LARGER_BATCH)
    with nudged(network, 1):
        refuse_batch_dependence(scored, digits, path, largest_batch=LARGER_BATCH)
    return found


def enforce(ledger: Ledger, recipe: Recipe, budget: Budget) -> None:
    """Compare a network and its recipe with the budget.

    Raises:
        BudgetError: too many stored numbers, or too many epochs.
    """
    if ledger.parameters > budget.parameters:
        largest = sorted((entry for entry in ledger.entries if entry.counted), key=lambda entry: -entry.numbers)[:3]
        raise BudgetError(
            "parameters",
            f"The network stores {ledger.parameters:,} numbers; the budget is {budget.parameters:,}.",
            allowed="Largest: " + "; ".join(f"{e.layer}.{e.name} ({e.kind}) {e.numbers:,}" for e in largest) + ".",
            hint="Make it narrower or remove layers; `python -m harness check` shows the layer table.",
            excess=ledger.parameters - budget.parameters,
        )
    if recipe.epochs > budget.epochs:
        raise BudgetError(
            "epochs",
            f"The recipe trains for {recipe.epochs} epochs; the budget is {budget.epochs}.",
            allowed=f"Allowed: 1 to {budget.epochs} epochs.",
            hint=f"Set epochs to {budget.epochs} or fewer.",
            excess=recipe.epochs - budget.epochs,
        )


def refuse_unfaithful(network: nn.Module, train: GraphModule, evaluation: nn.Module, path: str) -> None:
    """Refuse a network whose graphs give other outputs, gradients or buffers than the network itself.

    Raises:
        AuditError: they do, or the network modifies its images.
        ContractError: the backward pass raised.
    """
    images = made_up_images(step_size(train), seed=0)  # others than before: a network may have kept those
    worst = distance(network, train, evaluation, images, path)
    if worst > TOLERANCE:
        raise AuditError(
            "unfaithful",
            f"The network's exported graph predicts or learns differently from the network (by {worst:.2g}).",
            where=path,
            allowed="The graph is what trains and is scored: no Python randomness, counters or custom gradients.",
            hint="Use torch operators for randomness and detach() for gradients; keep no state in Python.",
        )
    if not torch.equal(images, made_up_images(len(images), seed=0)):
        raise AuditError(
            "writes-on-images",
            "The network modifies the images it is given.",
            where=path,
            allowed="A network only reads its images: the same memory is used again.",
            hint="Remove inplace=True from the first layer, or the _ from the operator applied to the images.",
        )


def distance(network: nn.Module, train: nn.Module, evaluation: nn.Module, images: Tensor, path: str) -> float:
    """Return the largest relative distance between a network and its graphs: of outputs, gradients and updated buffers.

    Args:
        network: the network itself.
        train, evaluation: its graphs, over the same tensors.
        images: (N, 1, 28, 28).
        path: file name for messages.

    Raises:
        ContractError: the backward pass raised.
    """
    with torch.no_grad(), quiet(), restored(network):
        network.eval()
        scored = relative_distance(network(images), evaluation(images))
    network.train()
    try:
        moved = one_step(network, network, images)
        learned = one_step(network, train, images)
    except RuntimeError as error:
        raise ContractError(
            "backward-raises",
            f"The backward pass raised {gist(error)}",
            where=path,
            allowed="The loss must have a gradient: tensors that its backward pass needs must not be overwritten.",
            hint="Remove inplace=True, or the _, from the operator that overwrites a tensor another one needs.",
        ) from error
    if moved.keys() != learned.keys():  # a parameter has a gradient in only one of them
        return math.inf
    return max([scored, *(relative_distance(moved[name], learned[name]) for name in moved)])
