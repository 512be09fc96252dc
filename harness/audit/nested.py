"""Write the blocks of ``torch.no_grad`` and ``torch.autocast``, which torch exports as graphs within a graph, in line.

What such a block changes becomes an operator of its own: no_grad detaches what enters the block, and autocast casts
what its operators read. So the audit counts, and the harness computes, one flat graph.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from operator import getitem
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg
from torch.utils._python_dispatch import TorchDispatchMode

_NO_GRAD = torch.ops.higher_order.wrap_with_set_grad_enabled
_AUTOCAST = torch.ops.higher_order.wrap_with_autocast


@dataclass(frozen=True)
class _Context:
    """What holds inside a block.

    Attributes:
        records: whether operators record gradients.
        cast: the device type and dtype of autocast.
        weights: parameters that are cast already: autocast casts each once, which decides how gradients are rounded.
    """

    records: bool = True
    cast: tuple[str, torch.dtype] | None = None
    weights: dict[tuple[Node, torch.dtype], Node] = field(default_factory=dict)


def inline_blocks(program: ExportedProgram) -> None:
    """Replace the blocks of a program by their operators, in place; a block that re-enables gradients is left."""
    graph = program.graph
    for block in _blocks(program.graph_module):
        context, inner, values = _entered(block, program.graph_module, _Context())
        if not context.records and _records_again(inner):
            continue
        with graph.inserting_before(block):
            results = _copied(graph, inner, values, context)
        for part in list(block.users):
            result = results[int(str(part.args[1]))]
            part.replace_all_uses_with(result)
            program.graph_signature.replace_all_uses(part.name, result.name)
            graph.erase_node(part)
        graph.erase_node(block)
    graph.eliminate_dead_code(lambda node: node.op != "get_attr")
    program.graph_module.delete_all_unused_submodules()


def _blocks(module: GraphModule) -> list[Node]:
    return [node for node in module.graph.nodes if node.target in (_NO_GRAD, _AUTOCAST)]


def _records_again(inner: GraphModule) -> bool:
    """Whether a block within enables gradients again: those of what entered a no_grad block are lost in line."""
    return any(
        (block.target is _NO_GRAD and block.args[0]) or _records_again(_entered(block, inner, _Context())[1])
        for block in _blocks(inner)
    )


def _entered(block: Node, outer: nn.Module, context: _Context) -> tuple[_Context, GraphModule, list[Any]]:
    """Return the context inside a block, the block's graph, and the values that enter it."""
    if block.target is _NO_GRAD:
        records, name, *values = block.args
        context = replace(context, records=bool(records))
    else:
        device, dtype, enabled, _cache, name, *values = block.args
        kind = dtype if isinstance(dtype, torch.dtype) else torch.get_autocast_dtype(str(device))
        context = replace(context, cast=(str(device), kind) if enabled else None)
    assert isinstance(name, Node)
    inner = outer.get_submodule(str(name.target))
    assert isinstance(inner, GraphModule)
    return context, inner, values


def _copied(graph: Graph, module: GraphModule, values: list[Any], context: _Context) -> list[Any]:
    """Copy a block's operators into `graph`, at its insertion point, and return the block's results."""
    if not context.records:
        values = [_with_value(graph, torch.ops.aten.detach.default, value) for value in values]
    entering, copies = iter(values), dict[Node, Any]()
    for node in module.graph.nodes:
        if node.op == "placeholder":
            copies[node] = next(entering)
        elif node.op == "output":
            return [copies[result] if isinstance(result, Node) else result for result in node.args[0]]
        elif node.target in (_NO_GRAD, _AUTOCAST):
            within, inner, inputs = _entered(node, module, context)
            inputs = [copies[value] if isinstance(value, Node) else value for value in inputs]
            copies[node] = _copied(graph, inner, inputs, within)
        elif node.target is getitem and isinstance(copies.get(node.args[0]), list):
            copies[node] = copies[node.args[0]][node.args[1]]
        elif node.op == "call_function":
            copied = copies[node] = graph.node_copy(node, copies.__getitem__)
            if context.cast:
                _cast(graph, copied, *context.cast, context.weights)
    return []


def _with_value(graph: Graph, target: Any, value: Any, *rest: Any) -> Any:
    """Add an operator on `value`, with the example value that later checks read; what is no tensor is returned."""
    if not isinstance(value, Node) or not isinstance(value.meta.get("val"), Tensor):
        return value
    added = graph.call_function(target, (value, *rest))
    added.meta = {**value.meta, "val": target(value.meta["val"], *rest)}
    return added


def _cast(graph: Graph, node: Node, device: str, dtype: torch.dtype, weights: dict[Any, Node]) -> None:
    """Cast what `node` reads as autocast does: torch says which by running the operator on values without data."""
    example = map_arg((node.args, node.kwargs), lambda value: value.meta["val"])
    with torch.no_grad(), torch.autocast(device, dtype, cache_enabled=False), _Casts() as casts:
        node.target(*example[0], **example[1])  # type: ignore[operator]
    cast: dict[Node, Any] = {}
    for value in node.all_input_nodes:
        kind = casts.found.get(id(value.meta["val"]))
        if kind is None or (value, kind) in weights:
            cast[value] = weights[value, kind] if kind else value
            continue
        with graph.inserting_before(node):
            cast[value] = _with_value(graph, torch.ops.aten.to.dtype, value, kind)
        if value.op == "placeholder":
            weights[value, kind] = cast[value]
    node.args, node.kwargs = map_arg((node.args, node.kwargs), cast.__getitem__)


class _Casts(TorchDispatchMode):
    """Notes the dtype to which each tensor is cast."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[int, torch.dtype] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and (kwargs or {}).get("dtype"):
            self.found.setdefault(id(args[0]), kwargs["dtype"])
        return func(*args, **(kwargs or {}))
