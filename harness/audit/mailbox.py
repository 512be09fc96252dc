"""Check that a parameter's gradient is one of what the network computes: else its optimiser delivers what was written.

A term that is zero, such as ``box - box.detach()``, changes no logit, but its gradient writes labels or images into a
parameter, which the next step can read. So each parameter that enters an operator without a gradient is moved, and the
logits are compared with those that its gradient foresees: the ones where what is detached keeps its value. The gradient
of a rounded weight (straight-through) foresees roughly what happens; that of a mailbox does not.

A term may also be too small for the logits and not for its gradient, such as ``1e-12 * box``, where an operator
without a gradient reads ``box < 0``: so each such parameter is moved along its gradient, too, from where it starts.

Batch norm takes away what a bias before it adds, so that the gradient of such a bias is rounding noise, and foresees
nothing of what else is rounded. The graph says that this bias is lost: nothing that is computed behind reads it. To
compute in double precision would tell noise as well, but a file can tell double precision, and hide there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from operator import getitem
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Interpreter, Node
from torch.nn.functional import cross_entropy
from torch.utils._pytree import tree_leaves

from harness.audit.graph import arguments, operators, short_name
from harness.audit.probe import made_up_images, nudged, quiet, restored
from harness.audit.sizes import step_size
from harness.audit.state import VIEWS
from harness.errors import AuditError

LEAST_COSINE = 0.1
"""Least mean cosine between what happens and what a gradient foresees; it is 0.05 for unrelated changes."""

LEAST_SHARE = 0.05
"""Least share of what a gradient foresees that happens."""

STEPS = (0.05, 1.0, 5.0)
"""Sizes of the moves: small ones for what is smooth, large ones for what is rounded, or signs of it."""

MOVES = 4
"""Directions in which each parameter is moved."""


ALONG = (1e-3, *STEPS)
"""Sizes of the moves along the gradient."""

LEAST_EFFECT = 1e-4
"""Least change of the logits, relative to their size, that counts as one."""

LEAST_FORESEEN = 1e-3
"""Least part of such a change that its gradient foresees."""

_ROUND = frozenset({"sign", "sgn", "floor", "ceil", "round", "trunc", "fix", "heaviside"})
"""Operators on real numbers that have no gradient, though their results are real numbers."""

_WITH_BIAS = frozenset({"linear"} | {f"conv{kind}{sides}d" for kind in ("", "_transpose") for sides in (1, 2, 3)})
"""Operators that add a bias to each channel."""

_PARTS = frozenset({"chunk", "split", "split_with_sizes", "tensor_split", "slice", "contiguous"})
"""Operators that give maps, or some of them, as they are."""

_SCALES = frozenset({"mul", "div", "add", "sub"})
"""Operators that scale or shift each channel, if what they apply is no larger."""


def refuse_mailboxes(network: nn.Module, train: ExportedProgram, path: str) -> None:
    """Refuse a network that trains a parameter whose gradient does not belong to what the network computes.

    Args:
        network: its tensors are those of the graph, and as before at the end.
        train: the graph of training mode.
        path: file name for messages.

    Raises:
        AuditError: it has such a parameter.
    """
    detached, stopped = (set(_behind(train, is_one)) for is_one in (_detaches, _stops))
    if not stopped:
        return
    graph = train.module()
    assert isinstance(graph, GraphModule)
    for name, parameter in network.named_parameters():
        if name not in stopped or not parameter.requires_grad:
            continue
        start = parameter.detach().clone()
        for state in (restored(network), nudged(network, 1)):
            with quiet(), torch.no_grad(), state:
                is_foreseen = name not in detached or _is_foreseen(graph, network, parameter)
                parameter.copy_(start)
                if not is_foreseen or not _is_effect_foreseen(graph, network, parameter):
                    raise AuditError(
                        "mailbox",
                        f"The gradient of the parameter {name} is not that of what the network computes in training.",
                        where=path,
                        allowed="A parameter learns from its effect on the logits; its gradient keeps no labels or "
                        "images for the next step.",
                        hint="Remove terms such as x - x.detach() or 1e-12 * x, buffers made of parameters, and biases "
                        "that a norm takes away; write custom gradients with detach(), as in x + (f(x) - x).detach().",
                    )


def _detaches(node: Node) -> bool:
    return short_name(node) == "detach"


def _stops(node: Node) -> bool:
    """Whether a node has no gradient: what is detached, rounded, or no real number, of real numbers."""
    if node.op != "call_function":
        return False
    value, *given = (each.meta.get("val") for each in (node, *node.all_input_nodes))
    if not isinstance(value, Tensor):
        return False
    if _detaches(node) or short_name(node).rstrip("_") in _ROUND:
        return True
    return not _is_real_or_complex(value) and any(_is_real_or_complex(each) for each in given)


def _is_real_or_complex(value: Any) -> bool:
    """Whether a value can have a gradient; several tensors, of which one may, count as one that can."""
    return not isinstance(value, Tensor) or value.is_floating_point() or value.is_complex()


def _behind(program: ExportedProgram, is_one: Callable[[Node], bool]) -> Iterator[str]:
    """Yield the names of the parameters from which any of certain nodes is computed."""
    parameters, writers = program.graph_signature.inputs_to_parameters, _writers(program)
    waiting = [node for node in program.graph.nodes if is_one(node)]
    seen = {*waiting}
    while waiting:
        node = waiting.pop()
        if node.name in parameters:
            yield parameters[node.name]
        new = {*node.all_input_nodes, *writers.get(node, ())} - {_lost_bias(node)} - seen
        seen |= new
        waiting += new


def _writers(program: ExportedProgram) -> dict[Node, list[Node]]:
    """Map each tensor to the operators that write on it or on a part of it, as norms do on their running statistics."""
    found: dict[Node, list[Node]] = {}
    for node in operators(program):
        if isinstance(node.target, torch._ops.OpOverload):
            given = arguments(node)
            written = [
                given[each.name]
                for each in node.target._schema.arguments
                if each.alias_info and each.alias_info.is_write
            ]
            for each in tree_leaves([written, given.get("running_mean"), given.get("running_var")]):
                if isinstance(each, Node):
                    found.setdefault(_whole(each), []).append(node)
    return found


def _whole(part: Any) -> Any:
    """Return the tensor in whose memory a part of it lies."""
    while _is_part(part) and isinstance(part.args[0], Node):
        part = part.args[0]
    return part


def _is_part(node: Node) -> bool:
    returned = node.target._schema.returns if isinstance(node.target, torch._ops.OpOverload) else ()
    return node.target is getitem or short_name(node) in VIEWS or any(each.alias_info for each in returned)


def _lost_bias(node: Node) -> Any:
    """Return the bias that a layer adds, if the norms that read its result take it away again, or None."""
    if short_name(node) not in _WITH_BIAS:
        return None
    given = arguments(node)
    is_batch = node.meta["val"].ndim == given["weight"].meta["val"].ndim  # whose channels are at place 1
    return given["bias"] if is_batch and _is_centred(node) else None


def _is_centred(maps: Node) -> bool:
    """Whether all that reads a batch takes away what was added to a whole channel."""
    waiting = [maps]
    while waiting:
        part = waiting.pop()
        for user in part.users:
            if _keeps_channels(user, part):
                waiting.append(user)
            elif short_name(user) != "sym_size" and not _centres(user, part):
                return False
    return True


def _centres(norm: Node, maps: Node) -> bool:
    """Whether a norm takes away what was added to a whole channel of `maps`."""
    if short_name(norm) not in ("batch_norm", "instance_norm"):
        return False
    given = arguments(norm)
    is_apart = all(_is_kept_apart(given[name], norm) for name in ("running_mean", "running_var"))
    return is_apart and given["input"] is maps and bool(given.get("training", given.get("use_input_stats")))


def _is_kept_apart(statistics: Any, norm: Node) -> bool:
    """Whether only a norm, and the update of a buffer, reads its statistics; `state` checks those in buffers."""
    if not isinstance(statistics, Node) or _whole(statistics).op == "placeholder":
        return True
    others = [user for user in statistics.users if user is not norm]
    is_moved = all(short_name(user) == "lerp_" and _whole(user.args[0]).op == "placeholder" for user in others)
    return _whole(statistics) is statistics and is_moved


def _keeps_channels(user: Node, maps: Node) -> bool:
    """Whether what was added to a whole channel of `maps` is a number for each whole channel of the result, too."""
    name = short_name(user)
    if user.target is getitem or name in _PARTS:
        return True
    before, after = maps.meta["val"], user.meta["val"]
    if name in ("view", "reshape"):  # ghost batch norm has a channel for each image of a part
        return after.shape[2:] == before.shape[2:] and after.shape[1] % before.shape[1] == 0
    if name in ("max_pool2d", "adaptive_avg_pool2d"):
        return bool(before.ndim == 4)
    if name == "avg_pool2d":
        given = arguments(user)
        return before.ndim == 4 and not any(given["padding"]) and not given["ceil_mode"]
    if name in _SCALES and not user.kwargs and after.shape == before.shape:  # `div` has a rounding_mode
        others = [each for each in user.args[:2] if each is not maps]
        return len(others) == 1 and (name != "div" or user.args[0] is maps) and _is_of_channels(others[0], before.ndim)
    return False


def _is_of_channels(factor: Any, dimensions: int) -> bool:
    """Whether a factor is one number, or one for each channel of maps of so many dimensions."""
    sides = getattr(factor.meta["val"], "shape", ()) if isinstance(factor, Node) else ()
    return all(side == 1 for place, side in enumerate(reversed(sides), 2 - dimensions) if place)


def _is_foreseen(graph: GraphModule, network: nn.Module, parameter: Tensor) -> bool:
    """Whether the logits move as the gradient of a parameter foresees, or it foresees nothing."""
    images = made_up_images(step_size(graph))
    before, stopped = _logits(graph, network, images, {})
    start = parameter.clone()
    generator = torch.Generator().manual_seed(0)
    for step in STEPS:
        found = []
        for _ in range(MOVES):
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=step)
            moves = [_logits(graph, network, images, given)[0] - before for given in ({}, stopped)]
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


def _is_effect_foreseen(graph: GraphModule, network: nn.Module, parameter: Tensor) -> bool:
    """Whether a step along a parameter's gradient changes the logits by no more than it foresees, in the main."""
    images = made_up_images(step_size(graph))
    before, stopped = _logits(graph, network, images, {})
    with torch.random.fork_rng(), restored(network), torch.enable_grad():
        loss = cross_entropy(_Run(graph, {}).run(images.clone()), torch.arange(len(images)) % 10)
        (gradient,) = torch.autograd.grad(loss, parameter, allow_unused=True)
    if gradient is None or not bool(gradient.isfinite().all() & gradient.any()):
        return True
    start = parameter.clone()
    for step in ALONG:
        parameter.sub_(gradient / gradient.abs().max(), alpha=step)
        happens, foreseen = (
            float((_logits(graph, network, images, given)[0] - before).nan_to_num().norm()) for given in ({}, stopped)
        )
        parameter.copy_(start)
        if happens > LEAST_EFFECT * float(before.norm()) and foreseen < LEAST_FORESEEN * happens:
            return False
    return True


def _logits(
    graph: GraphModule, network: nn.Module, images: Tensor, given: Mapping[Node, Tensor]
) -> tuple[Tensor, dict[Node, Tensor]]:
    """Return the logits, with what is `given` in the place of values without a gradient, and these values."""
    with torch.random.fork_rng(), restored(network):
        torch.manual_seed(0)
        run = _Run(graph, given)
        return run.run(images.clone()), run.stopped


class _Run(Interpreter):
    """Runs a graph with given values in the place of some of its nodes, and keeps what has no gradient."""

    def __init__(self, graph: GraphModule, given: Mapping[Node, Tensor]) -> None:
        super().__init__(graph)
        self._given = given
        self.stopped: dict[Node, Tensor] = {}

    def run_node(self, node: Node) -> Any:
        if node in self._given:
            return self._given[node]
        result = super().run_node(node)
        if isinstance(result, Tensor) and _stops(node):
            self.stopped[node] = result.clone()
        return result
