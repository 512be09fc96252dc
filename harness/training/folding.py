"""Fewer, larger operators for the same numbers, in a network's exported graph.

Four patterns are recognised, in any plug-in's graph, and everything else is left alone: filters that are put
together from turned, mirrored, shifted or repeated copies of one parameter; a batch norm whose scale and
offset are applied after it; a batch norm of known statistics after a convolution; and a depthwise convolution
that covers the whole map.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from harness.audit import arguments

aten = torch.ops.aten

CONVOLUTIONS = (aten.conv2d.default, aten.conv2d.padding)


def fold(network: GraphModule) -> None:
    """Replace, in place, what is recognised in the graph; parameters and buffers stay the same tensors.

    Computed filters become channels last.

    Args:
        network: an exported graph, on the device that it is to run on.
    """
    for node in network.graph.find_nodes(op="call_function", target=aten.batch_norm.default):
        _take_in_scale_and_offset(node)
    _gather_moves(network)
    for node in network.graph.find_nodes(op="call_function", target=aten.batch_norm.default):
        _take_into_convolution(node)
    for node in network.graph.find_nodes(op="call_function", target=aten.conv2d.default):
        _multiply_whole_maps(node)
    network.recompile()


def _replace(node: Node, by: Node) -> None:
    by.meta = dict(node.meta)  # the next to be replaced may ask for its shape
    node.replace_all_uses_with(by)
    node.graph.erase_node(node)


class Scoring:
    """A graph that is scored: what follows from its numbers alone is computed once for all images."""

    def __init__(self, network: GraphModule) -> None:
        """Take the graph apart, in place; `refresh` it before it is called."""
        self.network = network
        of_numbers, self._names = _taken_out(network)
        self._of_numbers = GraphModule(network, of_numbers)
        network.recompile()

    def refresh(self) -> None:
        """Compute it from the numbers as they are by now."""
        with torch.no_grad():
            for name, value in zip(self._names, self._of_numbers(), strict=True):
                setattr(self.network, name, value.detach())  # where it is a parameter itself

    def __call__(self, images: Tensor) -> Tensor:
        """Map (N, 1, 28, 28) images to (N, 10) logits."""
        logits: Tensor = self.network(images)
        return logits


def _taken_out(network: GraphModule) -> tuple[Graph, list[str]]:
    """Move what depends on no image to a graph of its own; return it, and as what the network reads what it returns."""
    of_numbers, moved = Graph(), dict[Node, Node]()
    written = overwritten(network.graph)
    for node in network.graph.nodes:
        read = node.all_input_nodes
        is_theirs = node.op == "get_attr" or (
            node.op == "call_function" and read and all(each in moved for each in read) and _holds_tensors(node)
        )
        if is_theirs and node not in written:
            moved[node] = of_numbers.node_copy(node, moved.__getitem__)
    ready = [node for node in moved if node.op != "get_attr" and any(user not in moved for user in node.users)]
    of_numbers.output([moved[node] for node in ready])
    names = [_attribute_for(network, f"_ready_{place}", torch.empty(0)) for place in range(len(ready))]
    for name, node in zip(names, ready, strict=True):
        with network.graph.inserting_before(node):
            value = network.graph.create_node("get_attr", name)
        value.meta = dict(node.meta)
        node.replace_all_uses_with(value)
    network.graph.eliminate_dead_code(lambda node: node not in moved)
    return of_numbers, names


def _holds_tensors(node: Node) -> bool:
    values = node.meta.get("val", ())  # operators of this project's own give tensors
    return all(isinstance(value, Tensor) for value in (values if isinstance(values, (list, tuple)) else [values]))


def _attribute_for(network: GraphModule, name: str, value: Tensor) -> str:
    """Give the network a tensor by this name, or by a longer one where it has such an attribute; return its name."""
    while hasattr(network, name):
        name += "_"
    setattr(network, name, value)
    return name


# --- numbers of one parameter that only change places -----------------------------------------------------

_VIEWS = (
    *(getattr(aten, name).default for name in ("reshape", "unsqueeze", "squeeze", "permute", "t", "alias", "expand")),
    *(getattr(aten, name).int for name in ("transpose", "select", "unbind", "unflatten")),
    *(getattr(aten, name).Tensor for name in ("slice", "split")),
    *(aten.flatten.using_ints, aten.split_with_sizes.default, aten.chunk.default, aten.squeeze.dim, operator.getitem),
)

_COPIES = tuple(
    getattr(aten, name).default for name in ("cat", "stack", "flip", "rot90", "roll", "repeat", "tile", "clone")
)
"""Operators that write each number anew: a chain of moves with one of them costs more than a gather."""


def _gather_moves(network: GraphModule) -> None:
    """Gather what is moved from parameters in one step, so that a number's gradient is one sum over its copies."""
    graph = network.graph
    origins: dict[Node, Node] = {}  # of each node that holds numbers of one parameter and no others
    places: dict[Node, Any] = {}  # where in the parameter each of its numbers stands; of all of a list's tensors
    copied: set[Node] = set()
    for node in graph.nodes:
        read = node.all_input_nodes
        if node.op == "get_attr" and isinstance(parameter := _attribute(network, node), nn.Parameter):
            origins[node] = node
            places[node] = torch.arange(parameter.numel()).view(parameter.shape)
        elif node.target in (*_VIEWS, *_COPIES) and {origins.get(each) for each in read} == {
            origins.get(read[0], node)
        }:
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), places.__getitem__)
            origins[node], places[node] = origins[read[0]], node.target(*args, **kwargs)
            if node.target in _COPIES or not copied.isdisjoint(read):
                copied.add(node)
    written = {origins[node] for node in overwritten(graph) if node in origins}
    groups: dict[tuple[int, torch.dtype], list[Node]] = {}  # by how often each of a parameter's numbers is used
    for node in [node for node in places if node in copied]:
        is_used = any(user not in origins for user in node.users)
        if is_used and isinstance(places[node], Tensor) and origins[node] not in written:
            values = origins[node].meta["val"]
            times = places[node].flatten().bincount(minlength=values.numel())
            if times.numel() and times.min() == times.max():
                groups.setdefault((int(times[0]), values.dtype), []).append(node)
    for (times, _), nodes in groups.items():
        _gather(network, [(node, origins[node], places[node]) for node in nodes], times)
    graph.eliminate_dead_code(lambda node: node not in origins)


def _attribute(network: GraphModule, node: Node) -> object:
    return operator.attrgetter(str(node.target))(network)


def overwritten(graph: Graph) -> set[Node]:
    """Return the nodes whose memory an operator of the graph writes to."""
    todo = [source for node in graph.nodes for source in _shared(node, writes=True)]
    found: set[Node] = set()
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo.extend(_shared(node, writes=False))
    return found


def _shared(node: Node, writes: bool) -> list[Node]:
    """Return the arguments whose memory an operator writes to, or hands on as (part of) its result."""
    if node.target is operator.getitem:
        return [] if writes else node.all_input_nodes
    if not isinstance(node.target, torch._ops.OpOverload):
        return []
    if not writes and node.target not in _FRESH and _may_return_what_it_is_given(node.target):
        return node.all_input_nodes
    given, schema = arguments(node), node.target._schema.arguments
    shared = [given[a.name] for a in schema if a.alias_info and (a.alias_info.is_write or not writes)]
    return [source for source in shared if isinstance(source, Node)]


_FRESH = (
    *CONVOLUTIONS,
    *(getattr(aten, name).default for name in ("batch_norm", "linear", "max_pool2d", "silu")),
)
"""Operators made of others whose results are new memory."""


def _may_return_what_it_is_given(operator: torch._ops.OpOverload) -> bool:
    """Whether it is made of other operators: then its schema does not tell (dropout at evaluation, type_as, to)."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), "CompositeImplicitAutograd")


def _gather(network: GraphModule, exits: list[tuple[Node, Node, Tensor]], times: int) -> None:
    """Let nodes be parts of one gather: each with its parameter and where its numbers, each `times` times, are from."""
    graph, start = network.graph, 0
    orders, shapes = [], []
    for _, parameter, places in exits:
        lies = places.permute(0, 2, 3, 1) if places.ndim == 4 else places
        orders.append(start + lies.flatten())
        shapes.append(list(lies.shape))
        start += parameter.meta["val"].numel()
    order = torch.cat(orders)
    first = _attribute(network, exits[0][1])
    assert isinstance(first, Tensor)
    with graph.inserting_before(exits[0][0]):
        read = []
        for name, table in (("origins", order), ("copies", order.argsort(stable=True).view(-1, times))):
            placed = table.to(first.device)  # a plain tensor: no number of the network's own
            read.append(graph.create_node("get_attr", _attribute_for(network, f"_{name}_{exits[0][0].name}", placed)))
        numbers = [graph.get_attr(str(parameter.target)) for _, parameter, _ in exits]
        gathered = graph.call_function(gather, (numbers, *read, shapes))
        for place, (node, _, _) in enumerate(exits):
            part = graph.call_function(operator.getitem, (gathered, place))
            part.meta = dict(node.meta)
            node.replace_all_uses_with(part)


def gather(numbers: list[Tensor], origins: Tensor, copies: Tensor, shapes: list[list[int]]) -> list[Tensor]:
    """Return tensors of copies of numbers; those of four axes as (N, C, H, W) channels last.

    Args:
        numbers: K of them together, in tensors of any shapes.
        origins: (M,) where among the numbers each copy is from, in the order in which they lie in memory.
        copies: (K, M / K) where the copies of each number are.
        shapes: of the results in memory, (N, H, W, C) where they have four axes; M numbers together.
    """
    gathered = _Gather.apply(torch.cat([tensor.flatten() for tensor in numbers]), origins, copies)
    parts = gathered.split([math.prod(shape) for shape in shapes])
    tensors = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
    return [tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor for tensor in tensors]


class _Gather(torch.autograd.Function):
    """Its backward pass gathers as well, where torch's own would add up one by one, on a GPU in any order."""

    @staticmethod
    def forward(ctx: Any, numbers: Tensor, origins: Tensor, copies: Tensor) -> Tensor:
        ctx.save_for_backward(copies)
        return _take(numbers, origins)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (copies,) = ctx.saved_tensors
        return _sum_copies(gradient, copies), None, None


# The compiler would look numbers up wherever they are used: a channel's scale again for every pixel.


@torch.library.custom_op("harness::take", mutates_args=())
def _take(numbers: Tensor, places: Tensor) -> Tensor:
    return numbers.index_select(0, places)


@_take.register_fake
def _(numbers: Tensor, places: Tensor) -> Tensor:
    return numbers.new_empty(places.shape)


@torch.library.custom_op("harness::sum_copies", mutates_args=())
def _sum_copies(gradient: Tensor, copies: Tensor) -> Tensor:
    return gradient[copies].sum(1)


@_sum_copies.register_fake
def _(gradient: Tensor, copies: Tensor) -> Tensor:
    return gradient.new_empty(len(copies))


# --- batch norm -------------------------------------------------------------------------------------------


def _take_in_scale_and_offset(node: Node) -> None:
    """Let a batch norm without scale and offset of its own apply those that its maps are given right after it."""
    given = arguments(node)
    maps = given["input"]
    if given["weight"] or given["bias"] or maps.meta["val"].ndim != 4 or len(maps.users) > 1:
        return
    multiplied, scale = _applied(node, aten.mul.Tensor)
    shifted, offset = _applied(multiplied, aten.add.Tensor) if multiplied else (None, None)
    if not (multiplied and scale and shifted and offset) or arguments(shifted)["alpha"] != 1:
        return
    statistics = [given[name] for name in ("running_mean", "running_var") if given[name]]
    if _writes_between(node, shifted) or any(len(each.users) > 1 for each in statistics):
        return
    channels = maps.meta["val"].shape[1]
    with node.graph.inserting_before(shifted):
        flat = [node.graph.call_function(aten.reshape.default, (each, [channels])) for each in (scale, offset)]
        folded = node.graph.call_function(aten.batch_norm.default, (maps, *flat, *node.args[3:]))
    for made, of in zip(flat, (scale, offset), strict=True):
        made.meta = {"val": of.meta["val"].reshape(channels)}
    _replace(shifted, folded)
    for dead in (multiplied, node):
        node.graph.erase_node(dead)


def _writes_between(first: Node, last: Node) -> bool:
    """Whether an operator between two of a graph writes to memory: then the first may not be moved to the last."""
    node = first.next
    while node is not last:
        if _shared(node, writes=True):
            return True
        node = node.next
    return False


def _applied(maps: Node, target: object) -> tuple[Node, Node] | tuple[None, None]:
    """Return the only use of maps and what it gives each channel one number of, or None twice."""
    user = next(iter(maps.users), None)
    if user is None or len(maps.users) > 1 or user.target != target or len(user.all_input_nodes) != 2:
        return None, None
    other = next(each for each in user.all_input_nodes if each is not maps)
    shape, channels = other.meta["val"].shape, maps.meta["val"].shape[1]
    return (user, other) if tuple(shape) in ((1, channels, 1, 1), (channels, 1, 1)) else (None, None)


def _take_into_convolution(node: Node) -> None:
    """Let the convolution before a batch norm of known statistics apply it, as a scale of its filters and a bias."""
    given = arguments(node)
    convolution = given["input"]
    if given["training"] or convolution.target not in CONVOLUTIONS or len(convolution.users) > 1:
        return
    of = arguments(convolution)
    names = ("running_mean", "running_var", "weight", "bias", "eps")
    if _writes_between(convolution, node):
        return
    with node.graph.inserting_before(node):
        scaled = node.graph.call_function(normalised, (of["weight"], of["bias"], *(given[name] for name in names)))
        weight, bias = (node.graph.call_function(operator.getitem, (scaled, place)) for place in (0, 1))
        replaced = node.graph.create_node(
            "call_function", convolution.target, (of["input"], weight, bias, *convolution.args[3:]), convolution.kwargs
        )
    weight.meta = dict(of["weight"].meta)
    _replace(node, replaced)
    node.graph.erase_node(convolution)


def normalised(
    filters: Tensor,
    offsets: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Return (O, I, H, W) filters and (O,) offsets whose maps are the given ones' after batch norm."""
    scale = torch.rsqrt(variance + eps)
    scale = scale if weight is None else scale * weight
    shift = (-mean if offsets is None else offsets - mean) * scale
    return filters * scale.view(-1, 1, 1, 1), shift if bias is None else shift + bias


# --- convolutions that cover the whole map ----------------------------------------------------------------


def _multiply_whole_maps(node: Node) -> None:
    """Let a depthwise convolution with one place to go be a product: backward in bfloat16 it takes a fifteenth."""
    given = arguments(node)
    maps, weight = given["input"].meta["val"], given["weight"].meta["val"]
    is_depthwise = weight.shape[1] == 1 and maps.ndim == 4 and given["groups"] == maps.shape[1] > 1
    if is_depthwise and weight.shape[2:] == maps.shape[2:] and not any(given["padding"]):
        with node.graph.inserting_before(node):
            product = node.graph.call_function(whole_maps, (given["input"], given["weight"], given["bias"]))
        _replace(node, product)


def whole_maps(maps: Tensor, filters: Tensor, bias: Tensor | None) -> Tensor:
    """Return (N, C * k, 1, 1) sums of (N, C, H, W) maps times their (C * k, 1, H, W) filters, plus (C * k,) bias."""
    each = filters.view(maps.shape[1], -1, *filters.shape[2:])
    sums = torch.einsum("nchw,ckhw->nck", _LearningAsItLies.apply(maps), each).flatten(1)
    return (sums if bias is None else sums + bias)[:, :, None, None]


class _LearningAsItLies(torch.autograd.Function):
    """Gives maps a gradient that is channels last, as all before it is: else each operator before it turns it round."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        return maps.view_as(maps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.contiguous(memory_format=torch.channels_last)
