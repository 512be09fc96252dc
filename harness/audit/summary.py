"""Describe a network: layer table, the components the assignment asks about, receptive field and multiply-adds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils.flop_counter import FlopCounterMode

from harness.audit.graph import arguments, operators, short_name
from harness.audit.network import Audit

_DROPOUTS = ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")


@dataclass(frozen=True)
class Layer:
    """One row of the layer table: dotted name, class, output shape with N for the batch, own parameters."""

    name: str
    kind: str
    output: str
    parameters: int


@dataclass(frozen=True)
class ModelSummary:
    """The description of a network.

    Attributes:
        layers: in execution order; a layer that runs twice is listed once.
        uses: whether it uses batch norm, dropout, a fully connected layer, global average pooling, 1x1 convolution.
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
    """Describe an audited network; its state does not change."""
    was_training = network.training
    network.eval()
    images = torch.zeros(2, 1, 28, 28, device=next((p.device for p in network.parameters()), None))
    rows: dict[str, Layer] = {}
    hooks = [module.register_forward_hook(_note(name, rows)) for name, module in _rows_of(network)]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(images)
    for hook in hooks:
        hook.remove()
    network.train(was_training)
    return ModelSummary(
        layers=tuple(rows.values()),
        uses=_uses(found),
        receptive_field=_receptive_field(found),
        multiply_adds=counter.get_total_flops() // 2 // len(images),
        ends_in_softmax=_ends_in_softmax(found),
    )


def _rows_of(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield modules that have no children or have parameters of their own."""
    for name, module in network.named_modules():
        if next(module.children(), None) is None or next(module.parameters(recurse=False), None) is not None:
            yield name, module


def _note(name: str, rows: dict[str, Layer]) -> Callable[[nn.Module, Any, Any], None]:
    def hook(module: nn.Module, _inputs: Any, output: Any) -> None:
        shape = f"(N, {', '.join(map(str, output.shape[1:]))})" if isinstance(output, Tensor) else "?"
        own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        rows.setdefault(name, Layer(name or "(network)", type(module).__name__, shape, own))

    return hook


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
    scored = list(_calls(found, training=False))
    return {
        "batch norm": any(name == "batch_norm" for name, _ in scored),
        "dropout": any(
            name in _DROPOUTS and arguments(node)["p"] > 0 and arguments(node)["train"]
            for name, node in _calls(found, training=True)
        ),
        "fully connected": any(name in ("linear", "addmm", "mm", "matmul") for name, _ in scored),
        "global average pooling": any(_pools_globally(name, node) for name, node in scored),
        "1x1 convolution": any(name == "conv2d" and _spatial(node.args[1]) == (1, 1) for name, node in scored),
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
