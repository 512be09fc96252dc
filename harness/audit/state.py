"""Check which tensors move in a training step: statistics of batch norm and vectors of spectral norm, no others.

A tensor that a graph writes could carry images from one step to the next, or hold more than was counted. The graph is
made functional, so that each moved tensor is a result like any other, and its operators say what it is.
"""

from __future__ import annotations

from operator import getitem
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from harness.audit.graph import cause, decomposed, operators, short_name
from harness.errors import AuditError

aten = torch.ops.aten

VIEWS = frozenset(
    {"view", "reshape", "flatten", "unflatten", "select", "slice", "unbind", "split", "chunk", "squeeze", "unsqueeze"}
    | {"detach", "alias", "transpose", "t", "numpy_T", "matrix_H", "permute", "expand", "expand_as"}
)
"""Operators whose result is a part of their first argument, or all of it in another shape."""

FILLS = frozenset(
    {"bernoulli_", "uniform_", "normal_", "exponential_", "geometric_", "log_normal_", "cauchy_", "random_"}
    | {"fill_", "zero_", "copy_"}
)
"""Operators that write every element of their first argument and read none."""


def refuse_storage(program: ExportedProgram, path: str) -> None:
    """Refuse a graph that exchanges or resizes the memory of a tensor, or reads memory that was never written.

    Raises:
        AuditError: it does one of them.
    """
    order = {node: place for place, node in enumerate(program.graph.nodes)}
    for node in operators(program):
        name = short_name(node)
        if name.startswith(("set_", "resize_", "_resize_")):
            raise AuditError(
                "storage",
                f"forward exchanges or resizes the memory of a tensor ({node.target}).",
                where=cause(node, path),
                allowed="A tensor keeps the memory and the size with which it was counted.",
                hint="Assign the result to a new variable.",
            )
        first = min(node.users, key=order.__getitem__, default=None)
        if "empty" in name.split("_") and first and not _fills(first, node):
            raise AuditError(
                "uninitialised",
                f"forward reads memory that it has not written ({node.target}).",
                where=cause(node, path),
                allowed="An empty tensor is filled as a whole by the next operator, such as bernoulli_ or fill_.",
                hint="Use torch.zeros instead of torch.empty, new_zeros instead of new_empty.",
            )


def _fills(user: Node, made: Node) -> bool:
    """Whether `user` writes all of `made` without reading it."""
    given = (*user.args, *user.kwargs.values())
    return short_name(user) in FILLS and given[0] is made and made not in given[1:]


def refuse_other_state(train: ExportedProgram, path: str) -> None:
    """Refuse a network that moves, in a training step, anything but batch norm's state and spectral norm's vectors.

    Raises:
        AuditError: it writes on a parameter or on another buffer, or its graph cannot be made functional.
    """
    plain = decomposed(train, path, {})
    results = {str(result): result for result in plain.graph.output_node().args[0]}
    signature = plain.graph_signature
    for result, name in signature.parameters_to_mutate.items():
        raise AuditError(
            "writes-on-weights",
            f"A training step writes on the parameter {name}.",
            where=cause(results[result], path),
            allowed="Only the optimiser changes parameters: what one step wrote, the next could read.",
            hint="Compute the weight anew in each step, from parameters that the optimiser trains.",
        )
    starts = {name: node for node in plain.graph.nodes if (name := signature.inputs_to_buffers.get(node.name))}
    for result, name in signature.buffers_to_mutate.items():
        moved, start = results[result], starts[name]
        if not (_is_statistic(start, moved) or _is_counter(start, moved) or _is_iterated(moved)):
            raise AuditError(
                "state",
                f"A training step changes the buffer {name}, which is not batch norm's or spectral norm's alone.",
                where=cause(moved, path),
                allowed="In training only batch norm's statistics and counter and spectral norm's two vectors move; "
                "only F.batch_norm moves and reads these statistics: nothing else reads them in training.",
                hint="Use nn.BatchNorm2d for running means; read them at evaluation only, not as batch renorm does; "
                "keep what is learned in nn.Parameters.",
            )


def _is_statistic(start: Node, moved: Node) -> bool:
    """Whether only batch norms in training move and read the buffer `start`, as a whole or in parts, up to `moved`."""
    same, norms = {start}, dict[Node, int]()  # values of the buffer, and the batch norms that take one as an argument
    for node in start.graph.nodes:
        taken = [place for place, value in enumerate(node.args) if isinstance(value, Node) and value in same]
        if node.target is getitem and node.args[0] in norms:
            if node.args[1] == norms[node.args[0]]:
                same.add(node)
        elif not taken or node.op == "output":
            continue
        elif _updates_statistics(node) and taken in ([3], [4]):
            norms[node] = taken[0]
        elif short_name(node) in VIEWS or node.target is getitem or _moves(node, taken):
            same.add(node)
        else:
            return False
    return moved in same


def _updates_statistics(node: Any) -> bool:
    return node.target is aten._native_batch_norm_legit_functional.default and bool(node.args[5])


def _moves(node: Node, taken: list[int]) -> bool:
    """Whether `node` puts moved statistics into their place, or moves statistics towards those of the batch."""
    if short_name(node).endswith("_scatter"):
        return taken == [0, 1]
    return node.target is aten.lerp.Tensor and taken == [0] and _is_batch_statistic(node.args[1])


def _is_batch_statistic(node: Any) -> bool:
    """Whether `node` is a mean or variance of the batch, as a batch norm with a momentum of 1 gives it."""
    if node.target is not getitem or node.args[1] not in (3, 4):
        return False
    return _updates_statistics(node.args[0]) and node.args[0].args[6] == 1


def _is_counter(start: Node, moved: Node) -> bool:
    """Whether ones are added to the buffer `start`, up to `moved`, and only a mean over all batches reads it."""
    same = {start}
    for node in start.graph.nodes:
        if node.op == "output" or not any(value in same for value in node.all_input_nodes):
            continue
        if node.target is aten.add.Tensor and node.args[1:] == (1,):
            same.add(node)
        elif node.target is not aten.reciprocal.default or not all(_is_share(node, user) for user in node.users):
            return False
    return moved in same


def _is_share(node: Node, user: Node) -> bool:
    return user.target is aten.lerp.Tensor and user.args[2] is node and _is_batch_statistic(user.args[1])


def _is_iterated(moved: Any) -> bool:
    """Whether `moved` is a step of power iteration (Miyato et al. 2018): a weight times a vector, of length one."""
    if moved.target is not aten.div.Tensor:
        return False
    product, length = moved.args
    while short_name(length) in ("expand", "clamp_min"):
        length = length.args[0]
    if product.target is not aten.mv.default or length.target is not aten.linalg_vector_norm.default:
        return False
    weight, vector = (_whole(each) for each in product.args)
    stored = vector.op == "placeholder" and vector.name.startswith("b_")
    of_weight = weight.op == "placeholder" and weight.name.startswith("p_")
    return length.args[0] is product and of_weight and (stored or _is_iterated(vector))


def _whole(node: Any) -> Any:
    while short_name(node) in VIEWS:
        node = node.args[0]
    return node
