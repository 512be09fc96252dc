"""A network rebuilt from a submission: one module of the harness's own, over tensors of the harness's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.export import ExportedProgram

from harness.errors import AuditError
from harness.submission.document import MODES, Submission
from harness.submission.operators import apply, named, refuse_foreign_arguments
from harness.submission.plain import from_plain, malformed

MOST_NODES = 20_000
"""Most nodes of a graph; the audit counts operators more strictly."""


@dataclass(frozen=True)
class _Node:
    """A node of a graph: an operator with its arguments as written, a tensor by its number, or the images.

    Attributes:
        number: of the tensor, or None.
    """

    function: Callable[..., Any] | None = None
    args: Sequence[Any] = ()
    kwargs: Sequence[tuple[str, Any]] = ()
    number: int | None = None


@dataclass(frozen=True)
class _Graph:
    """The nodes of a graph, and the number of the one whose result is the logits."""

    nodes: Sequence[_Node]
    result: int


class Submitted(nn.Module):
    """The network of a submission. In training mode it runs the one graph, in evaluation mode the other.

    Args:
        submission: the network as data.
        tensors: for each of its tensors, in their order, the values; they become the network's own.

    Raises:
        AuditError: the submission is malformed.
    """

    def __init__(self, submission: Submission, tensors: Sequence[Tensor]) -> None:
        super().__init__()
        entries = submission.tensors
        self._harness_graphs = {mode: _read(submission.nodes(mode), len(entries)) for mode in MODES}
        self._harness_places: list[tuple[nn.Module, str]] = []
        for entry, values in zip(entries, tensors, strict=True):
            is_parameter = entry.kind in ("parameter", "frozen")
            tensor = nn.Parameter(values, entry.kind == "parameter") if is_parameter else values
            places = [self._hold(name, tensor, entry.kind) for name in entry.names]
            self._harness_places.append(places[0])

    def _hold(self, name: str, tensor: Tensor, kind: str) -> tuple[nn.Module, str]:
        """Hold a tensor under a dotted name; return the module that holds it, and its attribute there."""
        *layers, short = name.split(".")
        holder: nn.Module = self
        for layer in layers:
            holder = holder._modules.setdefault(layer, nn.Module())  # type: ignore[assignment]
        if kind == "buffer":
            holder.register_buffer(short, tensor)
        else:
            setattr(holder, short, tensor)  # a parameter, or a constant
        return holder, short

    def forward(self, images: Tensor) -> Tensor:
        """Return the (N, 10) logits of (N, 1, 28, 28) images, by the graph of the current mode."""
        graph = self._harness_graphs["train" if self.training else "evaluation"]
        results: list[Any] = []
        for node in graph.nodes:
            if node.function:
                args = from_plain(node.args, results.__getitem__)
                kwargs = {name: from_plain(value, results.__getitem__) for name, value in node.kwargs}
                results.append(apply(node.function, args, kwargs))
            elif node.number is None:
                results.append(images)
            else:
                results.append(getattr(*self._harness_places[node.number]))
        logits: Tensor = results[graph.result]
        return logits


def _read(nodes: Sequence[Sequence[Any]], tensors: int) -> _Graph:
    """Check the nodes of a graph: each reads only those before it."""
    if not 2 <= len(nodes) <= MOST_NODES:
        raise malformed(f"a graph of {len(nodes):,} nodes")
    found: list[_Node] = []
    for kind, *content in nodes[:-1]:
        match kind, content:
            case "images", []:
                found.append(_Node())
            case "tensor", [int(number)] if type(number) is int and 0 <= number < tensors:
                found.append(_Node(number=number))
            case "call", [str(name), list(args), dict(kwargs)]:
                function = named(name)
                from_plain([args, *kwargs.values()], _before(len(found)))
                refuse_foreign_arguments(function, tuple(args), kwargs)
                found.append(_Node(function, args, tuple(kwargs.items())))
            case _:
                raise malformed(f"the node {str(kind)[:60]!r}")
    match nodes[-1]:
        case ["out", {"ref": int(result)}] if type(result) is int and 0 <= result < len(found):
            return _Graph(found, result)
    raise malformed("a graph without a result")


def _before(place: int) -> Callable[[int], None]:
    def check(number: int) -> None:
        if not 0 <= number < place:
            raise malformed("a node that reads a later one")

    return check


def annotate(program: ExportedProgram, submission: Submission, mode: str, path: str) -> None:
    """Write the plug-in's lines and layers to the operators of an exported submission, for messages and tables.

    Raises:
        AuditError: the exported graph does not have the operators of the submission.
    """
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    calls = submission.calls(mode)
    if len(nodes) != len(calls):
        raise AuditError("submission", "The network's graph changes when it is exported again.", where=path)
    for node, call in zip(nodes, calls, strict=True):
        node.meta["stack_trace"] = f'File "{path}", line {call.line}' if call.line else ""
        node.meta["layers"] = [submission.layers[place] for place in call.layers]
