"""Small questions to an exported graph: its operators, their arguments, the line of the plug-in behind them."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node


def where(text: str, path: str) -> str:
    """Return ``path:line`` for the last mention of a line of `path` in a traceback, or `path`."""
    lines = re.findall(rf'File "{re.escape(path)}", line (\d+)', text)
    return f"{path}:{lines[-1]}" if lines else path


def cause(node: Node, path: str) -> str:
    """Return ``path:line`` of the plug-in's line that called an operator, or `path`."""
    return where(node.meta.get("stack_trace") or "", path)


def operators(program: ExportedProgram) -> list[Node]:
    """Return the graph's operator calls in the order they run."""
    return [node for node in program.graph.nodes if node.op == "call_function"]


def arguments(node: Node) -> dict[str, Any]:
    """Return the arguments of an operator call by their schema names, defaults filled in."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    values = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    values.update({argument.name: value for argument, value in zip(schema, node.args, strict=False)})
    values.update(node.kwargs)
    return values


def short_name(node: Node) -> str:
    """Return an operator's name without namespace and overload, such as ``conv2d``; empty for plain Python."""
    return node.target._schema.name.partition("::")[2] if isinstance(node.target, torch._ops.OpOverload) else ""
