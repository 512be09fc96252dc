"""Describe a network: layer table, the components the assignment asks about, receptive field and multiply-adds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils.flop_counter import FlopCounterMode

from harness.audit.count import NETWORK
from harness.audit.graph import arguments, layers_of, operators, short_name
from harness.audit.network import Audit

_DROPOUTS = ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")


@dataclass(frozen=True)
class Layer:
    """One row of the layer table.

    Attributes:
        name: dotted name of the module.
        kind: its class.
        output: shape of its result, with N for the batch.
        parameters: numbers in its own parameters, as the ledger counts them, and in those of the modules within it
            that are not called when the network is scored.
    """

    name: str
    kind: str
    output: str
    parameters: int


@dataclass(frozen=True)
class ModelSummary:
    """The description of a network.

    Attributes:
        layers: in execution order; a layer that runs twice is listed once.
        uses: whether it uses batch norm, dropout, a fully connected layer, global average pooling, 1x1 convolution, in
            training or when it is scored.
        receptive_field: side, in input pixels, of the receptive field of the last feature map wider than one pixel.
        multiply_adds: multiply-adds of convolutions and matrix products, for one image.
        ends_in_softmax: whether it returns probabilities; the loss would apply a second softmax.
    """

    layers: tuple[Layer, ...]
    uses: dict[str, bool]
    receptive_field: int
    multiply_adds: int
    ends_in_softmax: bool


def describe(network: nn.Module, found: Audit) -> ModelSummary:
    """Describe an audited network; its state does not change.

    Args:
        network: the network that was audited.
        found: its audit; the operators of its graphs carry the layers that they are part of.
    """
    was_training = network.training
    network.eval()
    images = torch.zeros(2, 1, 28, 28, device=next((p.device for p in network.parameters()), None))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(images)
    network.train(was_training)
    return ModelSummary(
        layers=_layers(found),
        uses=_uses(found),
        receptive_field=_receptive_field(found),
        multiply_adds=counter.get_total_flops() // 2 // len(images),
        ends_in_softmax=_ends_in_softmax(found),
    )


def _layers(found: Audit) -> tuple[Layer, ...]:
    """Return a row for each module that has no children or has parameters, as it first ends."""
    within: dict[tuple[str, str], Node] = {}
    running: set[tuple[str, str]] = set()
    for node in operators(found.evaluation):
        layers = {*layers_of(node)}
        if not layers:
            continue
        within.update({layer: node for layer in layers if layer in running or layer not in within})
        running = layers
    order = {node: place for place, node in enumerate(found.evaluation.graph.nodes)}
    names = {name for name, _ in within}
    numbers = _numbers(found, names)
    rows = []
    for (name, kind), last in sorted(within.items(), key=lambda row: (order[row[1]], -len(row[0][0]))):
        has_children = any(other != name and other.startswith(f"{name}.".lstrip(".")) for other in names)
        if numbers[name] or not has_children:
            rows.append(Layer(name or NETWORK, kind, _shape_text(last), numbers[name]))
    return tuple(rows)


def _numbers(found: Audit, called: Set[str]) -> Counter[str]:
    """Return the numbers in parameters by the module that has them or, if that is not called, the one around it."""
    numbers = Counter[str]()
    for entry in found.ledger.entries:
        if entry.kind in ("parameter", "frozen parameter"):
            name = entry.layer if entry.layer != NETWORK else ""
            while name and name not in called:
                name = name.rpartition(".")[0]
            numbers[name] += entry.numbers
    return numbers


def _shape_text(node: Node) -> str:
    value = node.meta.get("val")
    return f"(N, {', '.join(map(str, value.shape[1:]))})" if isinstance(value, Tensor) else "?"


def _calls(found: Audit, training: bool) -> Iterator[tuple[str, Node]]:
    """Yield (operator name without namespace and overload, node) for one of the two graphs."""
    for node in operators(found.train if training else found.evaluation):
        if name := short_name(node):
            yield name, node


def _spatial(node: object) -> tuple[int, ...]:
    """Return the height and width of a (N, C, H, W) value, or an empty tuple."""
    value = node.meta.get("val") if isinstance(node, Node) else None
    value = value[0] if isinstance(value, (tuple, list)) and value else value  # max pooling may also return positions
    return tuple(int(side) for side in value.shape[2:]) if isinstance(value, Tensor) and value.ndim == 4 else ()


def _uses(found: Audit) -> dict[str, bool]:
    calls = [*_calls(found, training=False), *_calls(found, training=True)]
    return {
        "batch norm": any(name == "batch_norm" for name, _ in calls),
        "dropout": any(
            name in _DROPOUTS and arguments(node)["p"] > 0 and arguments(node)["train"] for name, node in calls
        ),
        "fully connected": any(name in ("linear", "addmm", "mm", "matmul") for name, _ in calls),
        "global average pooling": any(_pools_globally(name, node) for name, node in calls),
        "1x1 convolution": any(name == "conv2d" and _spatial(node.args[1]) == (1, 1) for name, node in calls),
    }


def _pools_globally(name: str, node: Node) -> bool:
    """Whether `node` averages each feature map, wider than one pixel, to one number per channel."""
    before = _spatial(node.args[0]) if node.args else ()
    if not before or max(before) == 1:
        return False
    if name == "adaptive_avg_pool2d":
        return _spatial(node) == (1, 1)
    if name == "avg_pool2d":
        return tuple(_pair(arguments(node)["kernel_size"])) == before
    if name == "mean":
        return {axis % 4 for axis in arguments(node).get("dim") or []} == {2, 3}
    return False


def _ends_in_softmax(found: Audit) -> bool:
    (predictions,) = next(iter(reversed(found.evaluation.graph.nodes))).args[0]
    return isinstance(predictions, Node) and short_name(predictions) == "softmax"


def _pair(value: int | list[int]) -> tuple[int, int]:
    sides = [value] if isinstance(value, int) else list(value)
    return (sides[0], sides[-1])


def _receptive_field(found: Audit) -> int:
    """Return the receptive field, by following (field, jump) through the graph (Araujo et al. 2019, eq. 2)."""
    reach: dict[Node, tuple[int, int]] = {}
    widest = 1
    calls = {node: name for name, node in _calls(found, training=False)}
    for node in found.evaluation.graph.nodes:
        sources = [reach[source] for source in node.all_input_nodes if source in reach]
        if node.name in found.evaluation.graph_signature.user_inputs:
            reach[node] = (1, 1)
        elif sources and len(_spatial(node)) == 2:
            field = max(field for field, _ in sources)
            jump = max(jump for _, jump in sources)
            kernel, stride = _window(calls.get(node, ""), node)
            reach[node] = (field + (kernel - 1) * jump, jump * stride)
            if max(_spatial(node)) > 1:
                widest = reach[node][0]
    return widest


def _window(name: str, node: Node) -> tuple[int, int]:
    """Return the side of the window that one output of `node` reads, and its stride."""
    if name == "conv2d":
        given = arguments(node)
        kernel, dilation = max(_spatial(node.args[1])), max(_pair(given["dilation"]))
        return (kernel - 1) * dilation + 1, max(_pair(given["stride"]))
    if name in ("max_pool2d", "avg_pool2d"):
        given = arguments(node)
        kernel, dilation = max(_pair(given["kernel_size"])), max(_pair(given.get("dilation", 1)))
        return (kernel - 1) * dilation + 1, max(_pair(given["stride"])) if given["stride"] else kernel
    if name in ("adaptive_avg_pool2d", "adaptive_max_pool2d"):
        before, after = max(_spatial(node.args[0])), max(_spatial(node))
        ends = [(start * before // after, -(-(start + 1) * before // after)) for start in range(after)]
        return max(last - first for first, last in ends), -(-before // after)
    return 1, 1
