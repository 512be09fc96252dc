"""Helpers for exported graphs: operators and their arguments, who reads a buffer, and the line of the plug-in."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterator
from operator import getitem
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from harness.audit.probe import gist
from harness.errors import AuditError

PARTS = frozenset({"view", "reshape", "flatten", "unflatten", "select", "slice", "unbind", "split", "chunk", "detach"})
"""Operators between a buffer of statistics and its batch norm in training (ghost batch norm)."""

_NO_MODULE = "_empty_nn_module_stack_from_metadata_hook"
"""torch's entry for an operator that it adds itself, as for the number of images."""


def where(text: str, path: str) -> str:
    """Return ``path:line`` for the last line of `path` in the text of a traceback, or `path`."""
    lines = re.findall(rf'File "{re.escape(path)}", line (\d+)', text)
    return f"{path}:{lines[-1]}" if lines else path


def cause(node: Node, path: str) -> str:
    """Return ``path:line`` of the plug-in's line that called an operator, or `path`."""
    return where(node.meta.get("stack_trace") or "", path)


def operators(program: ExportedProgram) -> list[Node]:
    """Return the graph's operator calls in the order they run."""
    return [node for node in program.graph.nodes if node.op == "call_function"]


def arguments(node: Node) -> dict[str, Any]:
    """Return the arguments of an operator call by their names in its schema, including defaults."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    values = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    values.update({argument.name: value for argument, value in zip(schema, node.args, strict=False)})
    values.update(node.kwargs)
    return values


def short_name(node: Node) -> str:
    """Return an operator's name without namespace and overload, such as ``conv2d``; empty for plain Python."""
    return node.target._schema.name.partition("::")[2] if isinstance(node.target, torch._ops.OpOverload) else ""


def layers_of(node: Node) -> list[tuple[str, str]]:
    """Return dotted name and class of the modules that an operator is part of, the outermost first."""
    if "layers" not in node.meta:  # that of a submission, whose modules are the plug-in's
        stack = node.meta.get("nn_module_stack") or {}
        real = [layer for key, layer in stack.items() if key != _NO_MODULE]
        node.meta["layers"] = [(name.partition("@")[0], str(kind).rpartition(".")[2]) for name, kind in real]
    found: list[tuple[str, str]] = node.meta["layers"]
    return found


def buffer_users(program: ExportedProgram, through: Collection[str] = PARTS) -> dict[str, list[tuple[Node, Node]]]:
    """Map each buffer's name to pairs in the graph: a user, and what it uses, the buffer or what `through` makes."""
    names = program.graph_signature.inputs_to_buffers
    read = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    return {names[node.name]: [*_users(node, through)] for node in read}


def _users(node: Node, through: Collection[str]) -> Iterator[tuple[Node, Node]]:
    for user in node.users:
        if short_name(user) in through or user.target is getitem:
            yield from _users(user, through)
        else:
            yield user, node


def decomposed(program: ExportedProgram, path: str, table: dict[Any, Any] | None = None) -> ExportedProgram:
    """Return a program of plainer operators, in which in-place changes are results like others.

    Args:
        program: an exported graph.
        path: file name for messages.
        table: how operators are decomposed; by default as torch does.

    Raises:
        AuditError: it cannot be decomposed.
    """
    try:
        return program.run_decompositions(table)
    except Exception as error:
        raise AuditError(
            "export", f"The network's graph cannot be simplified: {gist(error)}", where=path, hint="Simplify forward."
        ) from error


def every_tensor(network: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the parameters and buffers of a module by name; a tied one comes with each of its names."""
    return [*network.named_parameters(remove_duplicate=False), *network.named_buffers(remove_duplicate=False)]


def over_the_same_tensors(graph: GraphModule) -> GraphModule:
    """Return a copy whose operators can be changed, with the same parameter and buffer tensors as `graph`."""
    copied = GraphModule(graph, copy.deepcopy(graph.graph))
    copied.train(graph.training)
    return copied


def on_device(graph: GraphModule, device: torch.device) -> GraphModule:
    """Move a graph that was exported on the CPU to a device, in place, with the tensors that its operators create."""
    if device.type == "cpu":
        return graph
    for node in graph.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            names = [argument.name for argument in node.target._schema.arguments]
            if "device" in names[: len(node.args)]:
                node.update_arg(names.index("device"), device)
            elif "device" in names:
                node.update_kwarg("device", device)
        elif node.op == "get_attr":  # a constant, which .to() does not move
            layer, _, short = str(node.target).rpartition(".")
            holder = graph.get_submodule(layer)
            if type(tensor := getattr(holder, short)) is Tensor and short not in holder._buffers:
                setattr(holder, short, tensor.to(device))
    graph.recompile()
    return graph.to(device)
