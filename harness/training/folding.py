"""Fold operators of an exported graph into fewer and larger ones that compute the same values.

Four patterns are recognised in the graph of any plug-in; everything else is unchanged: filters that consist of rotated,
mirrored, shifted or repeated copies of a parameter; a batch norm whose scale and offset are applied after it; a batch
norm with running statistics after a convolution; and a depthwise convolution that covers the whole feature map.
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
    """Fold the recognised patterns of a graph, in place; parameters and buffers stay the same tensors.

    Computed filters become channels last.

    Args:
        network: an exported graph, on the device on which it will run.
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
    by.meta = dict(node.meta)  # later replacements read its shape
    node.replace_all_uses_with(by)
    node.graph.erase_node(node)


class Scoring:
    """A graph for scoring that computes what depends only on its parameters and buffers once, not for each batch."""

    def __init__(self, network: GraphModule) -> None:
        """Split the graph, in place; call `refresh` before the first use."""
        self.network = network
        of_numbers, self._names = _without_images(network)
        self._of_numbers = GraphModule(network, of_numbers)
        network.recompile()

    def refresh(self) -> None:
        """Compute these values from the current parameters and buffers."""
        with torch.no_grad():
            for name, value in zip(self._names, self._of_numbers(), strict=True):
                setattr(self.network, name, value.detach())  # it may be a parameter itself

    def __call__(self, images: Tensor) -> Tensor:
        """Map (N, 1, 28, 28) images to (N, 10) logits."""
        logits: Tensor = self.network(images)
        return logits


def _without_images(network: GraphModule) -> tuple[Graph, list[str]]:
    """Move what does not depend on the images to a new graph; return it, and the attribute names of its results."""
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
    values = node.meta.get("val", ())  # operators of this project have no metadata, and return tensors
    return all(isinstance(value, Tensor) for value in (values if isinstance(values, (list, tuple)) else [values]))


def _attribute_for(network: GraphModule, name: str, value: Tensor) -> str:
    """Set a tensor as an attribute, with a longer name if the network already has it, and return the name."""
    while hasattr(network, name):
        name += "_"
    setattr(network, name, value)
    return name


# --- values of one parameter that are only moved -----------------------------------------------------------

_VIEWS = (
    *(getattr(aten, name).default for name in ("reshape", "unsqueeze", "squeeze", "permute", "t", "alias", "expand")),
    *(getattr(aten, name).int for name in ("transpose", "select", "unbind", "unflatten")),
    *(getattr(aten, name).Tensor for name in ("slice", "split")),
    *(aten.flatten.using_ints, aten.split_with_sizes.default, aten.chunk.default, aten.squeeze.dim, operator.getitem),
)

_COPIES = tuple(
    getattr(aten, name).default for name in ("cat", "stack", "flip", "rot90", "roll", "repeat", "tile", "clone")
)
"""Operators that copy each value: a chain with one of them costs more than a gather."""


def _gather_moves(network: GraphModule) -> None:
    """Replace chains of moves by one gather, so that the gradient of each value is one sum over its copies."""
    graph = network.graph
    origins: dict[Node, Node] = {}  # for each node that holds values of a single parameter
    places: dict[Node, Any] = {}  # positions of its values in the parameter; for lists, of each tensor
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
    groups: dict[tuple[int, torch.dtype], list[Node]] = {}  # by how often each value of a parameter is used
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
    """Return the arguments whose memory an operator writes to or, without `writes`, returns as part of its result."""
    if node.target is operator.getitem:
        return [] if writes else node.all_input_nodes
    if not isinstance(node.target, torch._ops.OpOverload):
        return []
    if not writes and node.target not in _FRESH and _may_return_its_input(node.target):
        return node.all_input_nodes
    given, schema = arguments(node), node.target._schema.arguments
    shared = [given[a.name] for a in schema if a.alias_info and (a.alias_info.is_write or not writes)]
    return [source for source in shared if isinstance(source, Node)]


_FRESH = (
    *CONVOLUTIONS,
    *(getattr(aten, name).default for name in ("batch_norm", "linear", "max_pool2d", "silu")),
)
"""Composite operators whose results are always in new memory."""


def _may_return_its_input(operator: torch._ops.OpOverload) -> bool:
    """Whether it is composite: its schema then does not show aliasing (dropout at evaluation, type_as, to)."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), "CompositeImplicitAutograd")


def _gather(network: GraphModule, exits: list[tuple[Node, Node, Tensor]], times: int) -> None:
    """Replace nodes by parts of one gather.

    Args:
        network: the network; its graph is changed in place.
        exits: each node with its parameter and the positions of its values in it.
        times: how often each value of a parameter occurs in a node.
    """
    graph, start = network.graph, 0
    orders, shapes = [], []
    for _, parameter, places in exits:
        in_memory = places.permute(0, 2, 3, 1) if places.ndim == 4 else places
        orders.append(start + in_memory.flatten())
        shapes.append(list(in_memory.shape))
        start += parameter.meta["val"].numel()
    order = torch.cat(orders)
    first = _attribute(network, exits[0][1])
    assert isinstance(first, Tensor)
    with graph.inserting_before(exits[0][0]):
        read = []
        for name, table in (("origins", order), ("copies", order.argsort(stable=True).view(-1, times))):
            placed = table.to(first.device)  # a plain tensor, not a parameter or buffer of the network
            read.append(graph.create_node("get_attr", _attribute_for(network, f"_{name}_{exits[0][0].name}", placed)))
        numbers = [graph.get_attr(str(parameter.target)) for _, parameter, _ in exits]
        gathered = graph.call_function(gather, (numbers, *read, shapes))
        for place, (node, _, _) in enumerate(exits):
            part = graph.call_function(operator.getitem, (gathered, place))
            part.meta = dict(node.meta)
            node.replace_all_uses_with(part)


def gather(numbers: list[Tensor], origins: Tensor, copies: Tensor, shapes: list[list[int]]) -> list[Tensor]:
    """Return tensors that consist of copies of values; those with four axes are (N, C, H, W) channels last.

    Args:
        numbers: tensors of any shape, with K values in total.
        origins: (M,) position among the K values of each copy, in memory order.
        copies: (K, M / K) positions of the copies of each value.
        shapes: shapes of the results in memory order, (N, H, W, C) if they have four axes; M values in total.
    """
    gathered = _Gather.apply(torch.cat([tensor.flatten() for tensor in numbers]), origins, copies)
    parts = gathered.split([math.prod(shape) for shape in shapes])
    tensors = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
    return [tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor for tensor in tensors]


class _Gather(torch.autograd.Function):
    """A gather whose backward pass also gathers; torch's own adds values one by one, on a GPU in any order."""

    @staticmethod
    def forward(ctx: Any, numbers: Tensor, origins: Tensor, copies: Tensor) -> Tensor:
        ctx.save_for_backward(copies)
        return _take(numbers, origins)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (copies,) = ctx.saved_tensors
        return _sum_copies(gradient, copies), None, None


# Custom operators, because the compiler would fuse the lookup into its uses: a scale for each pixel again.


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
    """Make a batch norm without scale and offset apply those that are applied directly after it."""
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
    """Whether an operator between two nodes writes in place: then the first cannot be moved to the last."""
    node = first.next
    while node is not last:
        if _shared(node, writes=True):
            return True
        node = node.next
    return False


def _applied(maps: Node, target: object) -> tuple[Node, Node] | tuple[None, None]:
    """Return the only use of the maps and its other argument, one value per channel; or None twice."""
    user = next(iter(maps.users), None)
    if user is None or len(maps.users) > 1 or user.target != target or len(user.all_input_nodes) != 2:
        return None, None
    other = next(each for each in user.all_input_nodes if each is not maps)
    shape, channels = other.meta["val"].shape, maps.meta["val"].shape[1]
    return (user, other) if tuple(shape) in ((1, channels, 1, 1), (channels, 1, 1)) else (None, None)


def _take_into_convolution(node: Node) -> None:
    """Fold a batch norm with running statistics into the filters and bias of the convolution before it."""
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
    """Return (O, I, H, W) filters and an (O,) bias that include a batch norm with the given statistics."""
    scale = torch.rsqrt(variance + eps)
    scale = scale if weight is None else scale * weight
    shift = (-mean if offsets is None else offsets - mean) * scale
    return filters * scale.view(-1, 1, 1, 1), shift if bias is None else shift + bias


# --- convolutions that cover the whole map ----------------------------------------------------------------


def _multiply_whole_maps(node: Node) -> None:
    """Replace a depthwise convolution with one output pixel by a product: backward in bfloat16 is 15 times faster."""
    given = arguments(node)
    maps, weight = given["input"].meta["val"], given["weight"].meta["val"]
    is_depthwise = weight.shape[1] == 1 and maps.ndim == 4 and given["groups"] == maps.shape[1] > 1
    if is_depthwise and weight.shape[2:] == maps.shape[2:] and not any(given["padding"]):
        with node.graph.inserting_before(node):
            product = node.graph.call_function(whole_maps, (given["input"], given["weight"], given["bias"]))
        _replace(node, product)


def whole_maps(maps: Tensor, filters: Tensor, bias: Tensor | None) -> Tensor:
    """Return the (N, C * k, 1, 1) sums of (N, C, H, W) maps times (C * k, 1, H, W) filters, plus the (C * k,) bias."""
    each = filters.view(maps.shape[1], -1, *filters.shape[2:])
    sums = torch.einsum("nchw,ckhw->nck", _ChannelsLastGradient.apply(maps), each).flatten(1)
    return (sums if bias is None else sums + bias)[:, :, None, None]


class _ChannelsLastGradient(torch.autograd.Function):
    """Makes the gradient channels last, like the maps; otherwise each operator before it would convert it."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        return maps.view_as(maps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.contiguous(memory_format=torch.channels_last)
