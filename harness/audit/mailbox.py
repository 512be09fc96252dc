"""Check that a parameter's gradient is one of what the network computes: else its optimiser delivers what was written.

A term that is zero, such as ``box - box.detach()``, changes no logit, but its gradient writes labels or images into a
parameter, which the next step can read. So each parameter that enters an operator without a gradient is moved, and the
logits are compared with those that its gradient foresees: the ones where what is detached keeps its value. The gradient
of a rounded weight (straight-through) foresees roughly what happens; that of a mailbox does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Interpreter, Node

from harness.audit.graph import short_name
from harness.audit.probe import made_up_images, nudged, quiet, restored
from harness.audit.sizes import step_size
from harness.errors import AuditError

LEAST_COSINE = 0.1
"""Least mean cosine between what happens and what a gradient foresees; it is 0.05 for unrelated changes."""

LEAST_SHARE = 0.05
"""Least share of what a gradient foresees that happens."""

STEPS = (0.05, 1.0, 5.0)
"""Sizes of the moves: small ones for what is smooth, large ones for what is rounded, or signs of it."""

MOVES = 4
"""Directions in which each parameter is moved."""


def refuse_mailboxes(network: nn.Module, train: ExportedProgram, path: str) -> None:
    """Refuse a network that trains a parameter whose gradient does not belong to what the network computes.

    Args:
        network: its tensors are those of the graph, and as before at the end.
        train: the graph of training mode.
        path: file name for messages.

    Raises:
        AuditError: it has such a parameter.
    """
    names = {*_behind_detach(train)}
    if not names:
        return
    graph = train.module()
    assert isinstance(graph, GraphModule)
    for state in (restored(network), nudged(network, 1)):
        with quiet(), torch.no_grad(), state:
            for name, parameter in network.named_parameters():
                if name in names and parameter.requires_grad and not _is_foreseen(graph, network, parameter):
                    raise AuditError(
                        "mailbox",
                        f"The gradient of the parameter {name} is not that of what the network computes in training.",
                        where=path,
                        allowed="A parameter learns from its effect on the logits; its gradient keeps no labels or "
                        "images for the next step.",
                        hint="Remove terms such as x - x.detach(), or buffers made of parameters.",
                    )


def _behind_detach(program: ExportedProgram) -> Iterator[str]:
    """Yield the names of the parameters from which a detached value is computed."""
    parameters = program.graph_signature.inputs_to_parameters
    waiting = [node for node in program.graph.nodes if short_name(node) == "detach"]
    seen = {*waiting}
    while waiting:
        node = waiting.pop()
        if node.name in parameters:
            yield parameters[node.name]
        new = {*node.all_input_nodes} - seen
        seen |= new
        waiting += new


def _is_foreseen(graph: GraphModule, network: nn.Module, parameter: Tensor) -> bool:
    """Whether the logits move as the gradient of a parameter foresees, or it foresees nothing."""
    images = made_up_images(step_size(graph))
    kept: dict[Node, Any] = {}
    before = _logits(graph, network, images, kept, {})
    start = parameter.clone()
    generator = torch.Generator().manual_seed(0)
    for step in STEPS:
        found = []
        for _ in range(MOVES):
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=step)
            moves = [_logits(graph, network, images, {}, given) - before for given in ({}, kept)]
            happens, foreseen = (move.double().nan_to_num().flatten() for move in moves)
            parameter.copy_(start)
            if float(foreseen.abs().max()) < 1e-6:
                return True
            along = (happens @ foreseen).abs()
            length = foreseen.norm()
            found.append(torch.stack([along / length / happens.norm().clamp(min=1e-12), along / length.square()]))
        cosine, share = torch.stack(found).mean(0).tolist()
        if cosine > LEAST_COSINE and share > LEAST_SHARE:
            return True
    return False


def _logits(
    graph: GraphModule, network: nn.Module, images: Tensor, kept: dict[Node, Any], given: dict[Node, Any]
) -> Tensor:
    """Return the logits; note in `kept` what is detached, and use what is `given` in its place."""
    with torch.random.fork_rng(), restored(network):
        torch.manual_seed(0)
        logits: Tensor = _Run(graph, kept, given).run(images.clone())
        return logits


class _Run(Interpreter):
    def __init__(self, graph: GraphModule, kept: dict[Node, Any], given: dict[Node, Any]) -> None:
        super().__init__(graph)
        self._kept, self._given = kept, given

    def run_node(self, node: Node) -> Any:
        if node in self._given:
            return self._given[node]
        result = super().run_node(node)
        if short_name(node) == "detach":
            self._kept[node] = result.clone()
        return result
