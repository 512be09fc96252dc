"""Pad channels with zeros so that they fill whole vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.nn import functional as F

from harness.audit import arguments
from harness.training.batch_norm import batch_norm, batch_norm_in_sums
from harness.training.folding import CONVOLUTIONS
from harness.training.kernels import KERNELS, VECTOR

aten = torch.ops.aten

WORTH_PADDING = 4 / 3
"""Largest ratio of padded to real channels: with more, zeros cost more time than whole vectors save."""


_SAME_CHANNELS = tuple(
    getattr(aten, name).default
    for name in (
        *("relu", "relu6", "leaky_relu", "elu", "gelu", "silu", "mish", "hardtanh", "hardswish", "sigmoid", "tanh"),
        *("relu_", "relu6_", "leaky_relu_", "elu_", "gelu_", "silu_", "mish_", "hardtanh_", "hardswish_"),
        *("sigmoid_", "tanh_", "dropout", "dropout_", "feature_dropout", "feature_dropout_"),
        *("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"),
    )
)
"""Operators that compute each channel of the result from the same channel of their first argument alone."""

_TERM_BY_TERM = (aten.add.Tensor, aten.add_.Tensor, aten.mul.Tensor, aten.mul_.Tensor)


def pad_channels(graph: Graph) -> None:
    """Add channels to convolutions, up to whole vectors, and remove them before operators that cannot have them.

    Weights and biases are padded with zeros in every step, so the zeros are not trained, and operators that read the
    additional channels multiply them by zeros. Dropout also draws random numbers for them, so its masks differ from
    those without padding.

    Args:
        graph: the graph of a network in training mode; it is changed in place.
    """
    own: dict[Node, int] = {}  # feature maps with padded channels, and how many channels are the network's own
    for node in list(graph.nodes):
        if node.target in CONVOLUTIONS:
            _pad_convolution(node, own)
            continue
        read = node.all_input_nodes
        keeps_channels = node.target in (*_SAME_CHANNELS, *KERNELS.values(), batch_norm, batch_norm_in_sums)
        passes_on = keeps_channels and node.args[0] in own
        if passes_on or (node.target in _TERM_BY_TERM and len(read) == 2 and all(maps in own for maps in read)):
            own[node] = own[read[0]]
        else:
            for maps in read:
                _cut(maps, node, own)


def _pad_convolution(node: Node, own: dict[Node, int]) -> None:
    given = arguments(node)
    maps, weight, groups = given["input"], given["weight"], given["groups"]
    outputs, inputs = weight.meta["val"].shape[:2]
    more, more_inputs = -outputs % VECTOR, -own.get(maps, 0) % VECTOR
    is_depthwise = groups == outputs and inputs == 1 and maps in own
    if (groups != 1 and not is_depthwise) or weight in own:
        for read in node.all_input_nodes:
            _cut(read, node, own)
        return
    if is_depthwise:
        node.update_arg(6, groups + more)
        more_inputs = 0
    elif outputs + more > WORTH_PADDING * outputs or node.meta["val"].ndim != 4:
        more = 0
    padding = _on_both_sides(given["padding"], weight.meta["val"].shape[2:], given["dilation"])
    if inputs == 1 and (outputs + more) % VECTOR and padding:
        settings = (given["bias"], given["stride"], padding, given["dilation"])
        node.target, node.args, node.kwargs = convolve_one_channel, (maps, weight, *settings), {}
    with node.graph.inserting_before(node):
        if more or more_inputs:
            node.update_arg(1, node.graph.call_function(_pad_weight, (weight, more, more_inputs)))
        if more and given["bias"] is not None:
            node.update_arg(2, node.graph.call_function(F.pad, (given["bias"], [0, more])))
    if more:
        own[node] = outputs


def _cut(maps: Node, before: Node, own: dict[Node, int]) -> None:
    """Pass only the network's own channels to a node, as a view, so that in-place writes reach the feature maps."""
    if maps in own:
        with before.graph.inserting_before(before):
            cut = before.graph.call_function(aten.slice.Tensor, (maps, 1, 0, own[maps]))
        before.replace_input_with(maps, cut)


def _pad_weight(weight: Tensor, outputs: int, inputs: int) -> Tensor:
    return F.pad(weight, [0, 0, 0, 0, 0, inputs, 0, outputs]).contiguous(memory_format=torch.channels_last)


def _on_both_sides(padding: Any, kernel: Sequence[int], dilation: Sequence[int]) -> list[int] | None:
    """Return a convolution's padding as numbers, or None if opposite sides differ."""
    if padding == "valid":
        return [0, 0]
    if padding != "same":
        return list(padding)
    both = [step * (length - 1) for step, length in zip(dilation, kernel, strict=True)]
    return None if any(length % 2 for length in both) else [length // 2 for length in both]


def convolve_one_channel(maps: Tensor, weight: Tensor, *settings: Any) -> Tensor:
    """Convolve feature maps of one channel to a partial vector of channels; the weight's gradient is in float32.

    oneDNN takes four times as long for this gradient in bfloat16, while bfloat16 is faster in the forward pass.
    """
    convolved: Tensor = _ConvolveOneChannel.apply(maps, weight, *settings)
    return convolved


class _ConvolveOneChannel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any) -> Tensor:
        ctx.save_for_backward(maps, weight)
        ctx.settings = settings
        return F.conv2d(maps, weight, bias, *settings)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(gradient.device.type, enabled=False):
            tensors = (each.float() for each in (gradient, *ctx.saved_tensors))
            outputs, wanted = [gradient.shape[1]], list(ctx.needs_input_grad[:3])
            found = aten.convolution_backward(*tensors, outputs, *ctx.settings, False, [0, 0], 1, wanted)
        return *found, None, None, None
