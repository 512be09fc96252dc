"""Find what looks made in `forward` and is fixed: values that the images do not decide.

A graph may slice, pad and size its tensors as it likes, because such whole numbers are structure where images pass. On
a tensor that is the same for all images, each of these numbers chooses a value, as from a table. The graph cannot tell
(a line of ones made from the images, or times zero, is fixed), so it is run on other images, with the same weights and
with others; also with those of the start, as a weight that is zero need not learn.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Interpreter, Node
from torch.nn.functional import cross_entropy
from torch.utils._pytree import tree_leaves

from harness.audit.graph import arguments, operators, short_name
from harness.audit.probe import digit_like_images, made_up_images, nudged, quiet, restored
from harness.audit.sizes import step_size

ALIKE = 0.8
"""Correlation of a tensor's values in the two runs from which it is fixed; some noise would not hide a table."""

NEAR = 0.1
"""Distance of a tensor's values in two runs, as a part of their size, up to which they are the same for all images."""

_SHAPES = frozenset({"view", "reshape", "_unsafe_view", "expand", "expand_as", "unflatten", "flatten"})
"""Operators whose whole numbers only give the same values another shape."""

_NO_CHOICE = frozenset({"dim", "dims", "dim0", "dim1", "axis", "start_dim", "end_dim", "groups", "sym_size"})


def places(node: Node) -> list[int]:
    """Return the whole numbers of an operator that choose among the values of a tensor, or make it larger.

    The order of many axes, and a formula of einsum, stand as one number each.
    """
    if not isinstance(node.target, torch._ops.OpOverload):
        return []
    if short_name(node) in ("permute", "einsum"):
        order = repr(node.args[1] if short_name(node) == "permute" else node.args[0])
        return [zlib.crc32(order.encode())] if len(order) > _PLAIN_ORDER else []
    if short_name(node) in _SHAPES:
        return []
    types = {argument.name: str(argument.type) for argument in node.target._schema.arguments}
    last = 2**63 - 1  # the end of a slice to the end
    return [
        number
        for name, value in arguments(node).items()
        if "int" in types[name].lower() and name not in _NO_CHOICE
        for number in (value if isinstance(value, (list, tuple)) else (value,))
        if type(number) is int and number not in (-1, 0, 1, last)
    ]


_PLAIN_ORDER = len("[0, 2, 3, 1]")


@dataclass(frozen=True)
class Examined:
    """A graph, and what in it the images do not decide.

    Attributes:
        fixed: the operators whose results look made in `forward`.
        same: those and others whose results are the same for all images, as of weights.
    """

    program: ExportedProgram
    fixed: Set[Node]
    same: Set[Node]


def examine(program: ExportedProgram, network: nn.Module) -> Examined:
    """Run a graph on several images to find what they do not decide.

    Args:
        program: a graph, over the tensors of `network`.
        network: its parameters and buffers are as before at the end.
    """
    graph, outer = _runnable(program)
    made_up, digits, at_start = (
        [
            _values(graph, network, outer.keys(), direction, images(step_size(graph), seed=seed), seed)
            for seed, direction in enumerate(directions)
        ]
        for images, directions in ((made_up_images, (1, -1)), (digit_like_images, (1, 1)), (digit_like_images, (0, 0)))
    )
    fixed = {outer[node] for node in outer if _alike(*(run.get(node) for run in made_up))}
    same = {outer[node] for pair in (digits, at_start) for node in outer if _near(*(run.get(node) for run in pair))}
    return Examined(program, fixed, fixed | same)


def unmoved(train: ExportedProgram, network: nn.Module) -> set[str]:
    """Return the names of the parameters that have no gradient at the start, or none but zero.

    Args:
        train: the graph of training mode, over the tensors of `network`.
        network: its parameters and buffers are as before at the end.
    """
    graph, _ = _runnable(train)
    images = made_up_images(step_size(graph))
    named = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    with quiet(), torch.random.fork_rng(), restored(network), torch.enable_grad():
        loss = cross_entropy(graph(images), torch.arange(len(images)) % 10)
        gradients = torch.autograd.grad(loss, [*named.values()], allow_unused=True)
    moved = {name for name, grad in zip(named, gradients, strict=True) if grad is not None and bool(grad.any())}
    return {name for name, _ in network.named_parameters()} - moved


def spreads(program: ExportedProgram, network: nn.Module, still: Collection[str]) -> dict[Node, Tensor]:
    """Return how much the channels of what each batch norm normalises vary over images like digits.

    Args:
        program: a graph, over the tensors of `network`.
        network: its parameters and buffers are as before at the end.
        still: names of parameters that training does not move: they are also left where they are.

    Returns:
        for each batch norm of the graph, standard deviations: (channels,).
    """
    graph, outer = _runnable(program)
    norms = [node for node in outer if short_name(outer[node]) == "batch_norm"]
    if not norms:
        return {}
    most: dict[Node, Tensor] = {}
    for direction, left in ((1, ()), (-1, ()), (1, still)):
        images = digit_like_images(step_size(graph))
        values = _values(graph, network, {*map(_input, norms)}, direction, images, still=left)
        for norm in norms:
            spread = values[_input(norm)][0].transpose(0, 1).flatten(1).std(1, correction=0)
            most[outer[norm]] = torch.minimum(most.get(outer[norm], spread), spread)
    return most


def _runnable(program: ExportedProgram) -> tuple[GraphModule, dict[Node, Node]]:
    """Return a graph that runs, and for each of its operators that of the program."""
    graph = program.module()
    assert isinstance(graph, GraphModule)
    called = [node for node in graph.graph.nodes if node.op == "call_function"]
    return graph, dict(zip(called, operators(program), strict=True))


def _input(norm: Node) -> Node:
    assert isinstance(norm.args[0], Node)
    return norm.args[0]


def _values(
    graph: GraphModule,
    network: nn.Module,
    nodes: Set[Node],
    direction: int,
    images: Tensor,
    seed: int = 0,
    still: Collection[str] = (),
) -> dict[Node, list[Tensor]]:
    """Return the tensors that nodes make of images, while the network's numbers are moved in a direction.

    Args:
        images: (N, 1, 28, 28) float.
        seed: of what the graph draws.
        still: names of parameters that are not moved.
    """
    with quiet(), torch.no_grad(), torch.random.fork_rng(), nudged(network, direction, still):
        torch.manual_seed(seed)
        run = _Run(graph, nodes)
        run.run(images.clone())
    return run.values


class _Run(Interpreter):
    """Runs a graph and keeps the values of some of its nodes."""

    def __init__(self, graph: GraphModule, kept: Set[Node]) -> None:
        super().__init__(graph)
        self._kept = kept
        self.values: dict[Node, list[Tensor]] = {}

    def run_node(self, node: Node) -> Any:
        result = super().run_node(node)
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)] if node in self._kept else []
        if tensors:
            self.values[node] = [(each.abs() if each.is_complex() else each).detach().clone() for each in tensors]
        return result


def _near(first: Sequence[Tensor] | None, second: Sequence[Tensor] | None) -> bool:
    """Whether values of two runs are about the same."""
    if first is None or second is None:
        return False
    left, right = _flat(first).nan_to_num(), _flat(second).nan_to_num()
    return left.shape == right.shape and float((left - right).norm()) <= NEAR * float(left.norm())


def _alike(first: Sequence[Tensor] | None, second: Sequence[Tensor] | None) -> bool:
    if first is None or second is None:
        return False
    left, right = _flat(first), _flat(second)
    if left.shape != right.shape or torch.equal(left, right):
        return left.shape == right.shape
    pair = torch.stack([left, right]).nan_to_num()
    return bool(torch.corrcoef(pair)[0, 1].abs() > ALIKE) if left.numel() > 2 else False


def _flat(values: Sequence[Tensor]) -> Tensor:
    return torch.cat([each.flatten().double() for each in values])
