"""Find what looks made in `forward` and is fixed: values that the images do not decide.

A graph may slice, pad and size its tensors as it likes, because such whole numbers are structure where images pass. On
a tensor that is the same for all images, each of these numbers chooses a value: a table from home. The graph cannot
tell (a line of ones made from the images, or times zero, is fixed), so it is run on other images, with the same weights
and with others.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Interpreter, Node

from harness.audit.graph import arguments, operators, short_name
from harness.audit.probe import made_up_images, nudged, quiet
from harness.audit.sizes import step_size

ALIKE = 0.8
"""Correlation of a tensor's values in the two runs from which it is fixed; some noise would not hide a table."""

STILL = 0.1
"""Standard deviation of a channel up to which it stays about the same; a batch norm's statistics start at 0 and 1."""

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


def fixed_nodes(
    program: ExportedProgram, network: nn.Module, asked_for: Callable[[Node], bool]
) -> tuple[set[Node], set[Node]]:
    """Return the operators whose results are fixed, and those and others whose results are the same for all images.

    Args:
        program: a graph, over the tensors of `network`.
        network: its parameters and buffers are as before at the end.
        asked_for: whether an operator is to be examined.
    """
    graph = program.module()
    assert isinstance(graph, GraphModule)
    called = [node for node in graph.graph.nodes if node.op == "call_function"]
    asked = {inner: outer for inner, outer in zip(called, operators(program), strict=True) if asked_for(outer)}
    if not asked:
        return set(), set()
    runs: list[dict[Node, Tensor]] = []
    for direction, seed in ((1, 2), (-1, 0), (1, 0)):
        with quiet(), torch.no_grad(), torch.random.fork_rng(), nudged(network, direction):
            torch.manual_seed(len(runs))
            run = _Run(graph, {*asked})
            run.run(made_up_images(step_size(graph), seed=seed))
            runs.append(run.seen)
    first, all_others, other_images = ([run.get(inner) for inner in asked] for run in runs)
    fixed = {outer for outer, *pair in zip(asked.values(), first, all_others, strict=True) if _alike(*pair)}
    same = {outer for outer, *pair in zip(asked.values(), first, other_images, strict=True) if _equal(*pair)}
    return fixed, fixed | same


def still_norms(evaluation: ExportedProgram, network: nn.Module) -> set[Node]:
    """Return the batch norms whose channels stay about the same for all images: what comes out is their statistics.

    Args:
        evaluation: the graph of evaluation mode.
        network: its parameters and buffers are as before at the end.
    """
    graph = evaluation.module()
    assert isinstance(graph, GraphModule)
    called = [node for node in graph.graph.nodes if node.op == "call_function"]
    pairs = zip(called, operators(evaluation), strict=True)
    norms = {inner: outer for inner, outer in pairs if short_name(outer) == "batch_norm"}
    still = {*norms.values()}
    for direction in (1, -1) if norms else ():
        with quiet(), torch.no_grad(), nudged(network, direction):
            run = _Run(graph, {inner.args[0] for inner in norms})
            run.run(made_up_images(step_size(graph), seed=2))
            for inner, outer in norms.items():
                values = run.shaped[inner.args[0]]
                spread = values.transpose(0, 1).flatten(1).std(1)
                if bool((spread > STILL).float().mean() > 0.5):
                    still.discard(outer)
    return still


class _Run(Interpreter):
    """Runs a graph and keeps the values of some of its operators."""

    def __init__(self, graph: GraphModule, kept: set[Node]) -> None:
        super().__init__(graph)
        self._kept = kept
        self.seen: dict[Node, Tensor] = {}
        self.shaped: dict[Node, Tensor] = {}

    def run_node(self, node: Node) -> Any:
        result = super().run_node(node)
        if node in self._kept and (found := [*_tensors(result)]):
            self.shaped[node] = found[0].detach().clone()
            self.seen[node] = torch.cat([each.detach().flatten().double() for each in found])
        return result


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value.abs() if value.is_complex() else value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _tensors(each)


def _equal(first: Tensor | None, second: Tensor | None) -> bool:
    return first is not None and second is not None and torch.equal(first, second)


def _alike(first: Tensor | None, second: Tensor | None) -> bool:
    if first is None or second is None or first.shape != second.shape:
        return False
    if torch.equal(first, second):
        return True
    pair = torch.stack([first, second]).nan_to_num()
    return bool(torch.corrcoef(pair)[0, 1].abs() > ALIKE) if first.numel() > 2 else False
