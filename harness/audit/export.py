"""Export a module to the graphs that are counted, trained and scored, and check which operators they hold."""

from __future__ import annotations

import contextlib
import traceback
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.fx import Node

from harness.audit.adapt import exportable
from harness.audit.graph import arguments, cause, decomposed, operators, short_name, where
from harness.audit.nested import inline_blocks
from harness.audit.probe import TRAINED_TOGETHER, gist, made_up_images, quiet
from harness.audit.sizes import accepted_sizes, accepts, size_that_runs
from harness.errors import AuditError, Refusal, UsageError

MOST_OPERATORS = 2_000
"""Most operators in a graph; one that takes lists counts once for each of their entries. Shapes, strides,
indices and the order of a list are not counted, and each could hide a few bits: this limit bounds their
number. A 30-layer network has about 400 operators."""

PARTS = (2, 3, 4, 6, 8, 12)
"""Numbers of equal parts of a batch that are exported as such, so that graphs of earlier runs stay the same."""

MANY = 20
"""Times the images of a trial step: so many images split into 16 chunks, or 32, where 24 make fewer."""

MOST_IMAGES = 65_535
"""Images in the largest batch of an exported graph: the limit of cuDNN's batch norm. A recipe has at most 60,000."""


def export(network: nn.Module, training: bool, path: str) -> ExportedProgram:
    """Export a module in training or evaluation mode for a dynamic batch size.

    Raises:
        AuditError: the module cannot be exported.
        UsageError: torch cannot write its cache.
    """
    try:
        with quiet(), exportable(network, training, path):
            program = _exported(network, training)
    except Refusal:
        raise
    except OSError as error:
        raise UsageError(
            f"torch cannot write {error.filename}: {error.strerror}.",
            hint="Set TORCHINDUCTOR_CACHE_DIR to a folder that you may write to.",
        ) from error
    except Exception as error:  # torch.export raises many types, none documented
        mode = "training" if training else "evaluation"
        text = "".join(traceback.format_exception(error))
        fixes_batch = "Constraints violated" in text
        raise AuditError(
            "export",
            f"The network cannot be exported in {mode} mode: "
            + ("forward assumes a fixed number of images." if fixes_batch else gist(error)),
            where=where(text, path),
            allowed="forward must be plain tensor code: no branch on values, no fixed batch size, no attribute set.",
            hint="Use images.shape[0] instead of len(images) or a number, and do not branch or loop on it."
            if fixes_batch
            else "Rewrite that line with tensor operations; create tensors and attributes in __init__.",
        ) from error
    inline_blocks(program)
    _free_layout(program)
    return program


def _exported(network: nn.Module, training: bool) -> ExportedProgram:
    """Export a network for a batch of any size or, in training, of the sizes that its graph accepts.

    With a dynamic batch size, no branch on the number of images can hide a second network. In training a batch may be
    split into parts, as ghost batch norm does: the graph checks the number of images. A prediction that is scored
    depends on its own image alone.
    """
    try:
        return _with_batch(network, 3, Dim("batch", min=2, max=MOST_IMAGES))
    except Exception as error:
        if not training or not any(sign in str(error) for sign in _NEEDS_PARTS):
            raise
        refused = error
    count = size_that_runs(network)
    parts_tried = PARTS if count == TRAINED_TOGETHER else ()
    equal = [(3 * parts, parts * Dim("batch", min=2, max=MOST_IMAGES // parts)) for parts in parts_tried]
    free = Dim.DYNAMIC(min=2, max=MOST_IMAGES)
    best, most = None, 0
    for images, batch in (*equal, (count, free), (MANY * count, free)):
        with contextlib.suppress(Exception):
            program = _with_batch(network, images, batch)
            graph = program.module()
            if accepts(graph, count) and accepts(graph, MANY * count):
                return program
            accepted = accepted_sizes(graph)
            if len(accepted) > 2 * most and accepted[-1] >= count:
                best, most = program, len(accepted)
    if best:
        return best
    raise refused


_NEEDS_PARTS = ("Constraints violated", "is invalid for input of size", "out of range", "values to unpack")
"""What torch says of a network that does not take every number of images."""


def _with_batch(network: nn.Module, images: int, batch: Any) -> ExportedProgram:
    return torch.export.export(network, (made_up_images(images),), dynamic_shapes=({0: batch},))


def _free_layout(program: ExportedProgram) -> None:
    """Replace views by reshapes and remove assertions on dtypes: memory layout and precision are chosen later."""
    for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten.view.default):
        node.target = torch.ops.aten.reshape.default
    for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten._assert_tensor_metadata.default):
        program.graph.erase_node(node)
    program.graph_module.recompile()


def refuse_foreign_operators(program: ExportedProgram, path: str) -> None:
    """Refuse a graph with operators that are not torch's own, or with too many.

    Raises:
        AuditError: a custom or higher-order operator, or more than `MOST_OPERATORS`.
    """
    nodes = operators(program)
    for node in nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            foreign = node.target.namespace != "aten"
        else:  # arithmetic on sizes is plain Python; anything else is a higher-order operator
            foreign = getattr(node.target, "__module__", "") not in ("_operator", "math", "torch")
        if foreign:
            raise foreign_operator(node, path)
    size = sum(_size(node) for node in nodes)
    if size > MOST_OPERATORS:
        raise AuditError(
            "operators",
            f"forward runs {size:,} operators and entries of their lists; the limit is {MOST_OPERATORS:,}.",
            where=cause(max(nodes, key=_size), path),
            hint="Loop less: use one operator on a larger tensor instead of many on small ones.",
        )


def foreign_operator(node: Node, path: str) -> AuditError:
    """Return the error for an operator that is not torch's own."""
    name = str(getattr(node.target, "__name__", type(node.target).__name__))
    hint = "Write it with ordinary torch functions; for torch.no_grad() use tensor.detach()."
    if isinstance(node.target, torch._ops.OpOverload):
        name = str(node.target)
    elif str(getattr(node.target, "__module__", "")).startswith("torch._functorch"):
        name, hint = "torch.vmap", "Compute all at once, with torch.einsum or torch.bmm, from stacked tensors."
    return AuditError(
        "operator",
        f"forward uses the operator {name}, which the audit cannot inspect.",
        where=cause(node, path),
        allowed="Allowed: torch's own (aten) operators; no custom operators, no nested graphs.",
        hint=hint,
    )


def _size(node: Node) -> int:
    values = (*node.args, *node.kwargs.values())
    return max(1, sum(len(value) for value in values if isinstance(value, (list, str, tuple))))


def refuse_change_at_evaluation(evaluation: ExportedProgram, path: str) -> None:
    """Refuse a network that draws random numbers or changes its state when it is scored.

    Raises:
        AuditError: it does one of them, or its graph cannot be decomposed.
    """
    plain = decomposed(evaluation, path)
    for node in operators(plain):
        if _draws(node):
            raise AuditError(
                "random",
                f"The network draws random numbers at evaluation ({node.target}).",
                where=cause(node, path),
                allowed="Random numbers are for training only: self.training is false when a network is scored.",
                hint="Use nn.Dropout instead of F.dropout, or pass training=self.training.",
            )
    signature = plain.graph_signature
    changed = [*signature.buffers_to_mutate.values(), *getattr(signature, "parameters_to_mutate", {}).values()]
    if changed:
        raise AuditError(
            "state-change",
            f"Scoring the network changes its {changed[0]}.",
            where=path,
            allowed="A network gives the same predictions each time; only training changes its state.",
            hint="Update buffers only where self.training is true.",
        )


def _draws(node: Node) -> bool:
    """Whether an operator draws random numbers; a leaky ReLU of random slope does only in training."""
    is_random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
    return is_random and not (short_name(node).startswith("rrelu") and arguments(node)["training"] is False)
