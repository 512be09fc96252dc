"""How a network lies in memory while it trains: weights channels last, maps in whole vectors, kernels of few passes.

None of it changes what is learned. The measurements behind each stand in docs/performance.md.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.nn import functional as F

from harness.folding import CONVOLUTIONS, Scoring, fold, overwritten
from harness.graph import arguments, over_the_same_tensors
from harness.kernels import ACTIVATIONS, KERNELS, max_pool, memory_format, normalise, silu, silu_in_place
from harness.spec import PLAIN, Arithmetic

VECTOR = 16
"""Channels that fill a vector: 256 bits of bfloat16 numbers, which are 512 bits once widened to float32."""

WORTH_PADDING = 4 / 3
"""Most padded channels for each real one: beyond, zeros cost more than whole vectors bring."""

aten = torch.ops.aten


def arrange(network: nn.Module, arithmetic: Arithmetic) -> Callable[[Tensor], Tensor]:
    """Lay out a network, in place, and return what maps a full batch to logits.

    The network itself goes on mapping batches of any size; torch.compile makes code for one size at a time.

    Args:
        network: in training mode; an exported graph where `arithmetic` is compiled or padded.
    """
    if arithmetic.channels_last:
        for parameter in network.parameters():
            if parameter.ndim == 4:  # contiguous() would leave a weight of one channel, and all maps after it
                parameter.data = parameter.data.to(memory_format=torch.channels_last)
        if isinstance(network, GraphModule):
            fold(network)
    compiled = arithmetic.execution == "compiled"
    if isinstance(network, GraphModule) and arithmetic.channels_last and (compiled or arithmetic.padded):
        _replace_batch_norm(network.graph, compiled)
        if compiled:
            _use_kernels(network.graph)
        if arithmetic.padded:
            _pad_channels(network.graph)
        network.recompile()
    if not compiled:
        return network
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns that there is no GPU
    # torch's own random numbers: the compiler's take longer, and would give dropout other masks than an eager step.
    options: dict[str, Any] = {"fallback_random": True}
    if arithmetic.padded:
        options["cpp.simdlen"] = 16 * VECTOR  # of the 32 that fit into 512 bits, half would be left to a slow rest
    return torch.compile(network, dynamic=False, options=options)


def arrange_scoring(network: GraphModule, arithmetic: Arithmetic) -> Scoring:
    """Lay out a graph that is scored, in place, and return what maps a batch of any size to logits, in float32.

    Its parameters and buffers stay the same tensors, laid out as they are; once they have moved, `refresh` it.
    """
    if arithmetic.channels_last:
        fold(network)
        if arithmetic.execution == "compiled":
            _use_kernels(network.graph, learns=False)
        for node in list(network.graph.nodes):
            if node.target in CONVOLUTIONS and arguments(node)["weight"].meta["val"].ndim == 4:
                with network.graph.inserting_before(node):
                    node.update_arg(1, network.graph.call_function(_channels_last, (node.args[1],)))
    return Scoring(network)


def _channels_last(weight: Tensor) -> Tensor:
    return weight.to(memory_format=torch.channels_last)


def _use_kernels(graph: Graph, learns: bool = True) -> None:
    written = overwritten(graph)
    for node in graph.nodes:
        if node.target in KERNELS and node.meta["val"].dtype == torch.float32 and node.meta["val"].ndim == 4:
            node.target = KERNELS[node.target]
            read = node.all_input_nodes[0]
            is_last = read.target in CONVOLUTIONS and len(read.users) == 1 and node not in written
            if node.target is silu and is_last and not learns:
                node.target = silu_in_place


def by_torch(network: GraphModule) -> GraphModule:
    """Return an arranged network with torch's own operators for this project's kernels, over the same tensors."""
    same = over_the_same_tensors(network)
    for node in same.graph.nodes:
        node.target = _TORCHS.get(node.target, node.target)
    same.recompile()
    return same


def drop_torn_code(error: Exception) -> bool:
    """Delete what a compiler that was killed has left half written in torch's cache; return whether it was that.

    torch takes the file for a finished one, in every later run of the network.
    """
    torn = re.search(r"ImportError: (\S+\.so): (?:file too short|invalid ELF header)", str(error))
    if torn:
        Path(torn[1]).unlink(missing_ok=True)
    return torn is not None


# --- does it suit the network? ----------------------------------------------------------------------------

NEAR = 1e-3
"""How far a result may lie from the plain one, against the largest of its kind: rounding is a thousandth of that."""

_DROPOUTS = tuple(
    getattr(aten, name).default
    for name in ("dropout", "dropout_", "feature_dropout", "feature_dropout_", "alpha_dropout", "feature_alpha_dropout")
)


def choose_suitable(wanted: Arithmetic, train: GraphModule, evaluation: GraphModule, images: Tensor) -> Arithmetic:
    """Return `wanted`, or the next best arithmetic by which a network is the same network and can be trained.

    A network may write through a view that channels last are no view of, or use an operator that knows no
    bfloat16. So each candidate takes one step, on a copy, beside a plain one.

    Args:
        train, evaluation: the graphs that are trained and scored, untouched.
        images: (N, 1, 28, 28) normalised images, a few.
    """
    unpadded = replace(wanted, padded=False)
    with torch.random.fork_rng():
        exact, expected = _plainly(train, evaluation, images)
        if not expected:  # a network that cannot take a step at all says so when it is trained
            return PLAIN
        for candidate in (wanted, replace(unpadded, precision="float32"), replace(unpadded, channels_last=False)):
            layout = replace(candidate, precision="float32", execution="eager")
            try:
                found = _step(train, True, layout, exact) + _step(evaluation, False, layout, exact)
                _step(train, True, replace(candidate, execution="eager"), images)
            except Exception:  # whatever an operator says that cannot be computed so
                continue
            if not any(_far(*both) for both in zip(found, expected, strict=True)):
                return candidate
    return PLAIN


def unrepeatable(chosen: Arithmetic, train: GraphModule, images: Tensor) -> tuple[str, ...]:
    """Return the names of operators that may give other bits each time, as torch calls them; after `arithmetic.settle`.

    Args:
        chosen: how the network will be trained.
        train: the graph that is trained, untouched.
        images: (N, 1, 28, 28) normalised images, a few, on the device that trains.
    """
    with torch.random.fork_rng(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        _step(train, True, replace(chosen, execution="eager"), images)
    named = (re.match(r"(\S+) does not have a deterministic implementation", str(each.message)) for each in said)
    return tuple(sorted({found[1] for found in named if found}))


def _plainly(train: GraphModule, evaluation: GraphModule, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the images in float64 where the network can learn from them, and what a plain step makes of both graphs.

    In float32, rounding takes a few numbers to the other side of a ReLU or to another place of a max pooling, and
    of few images a gradient is then off by a hundredth.
    """
    for exact in (images.double(), images):
        with contextlib.suppress(Exception):  # whatever an operator says that wants float32
            return exact, _step(train, True, PLAIN, exact) + _step(evaluation, False, PLAIN, exact)
    return images, []


def _step(graph: GraphModule, learns: bool, layout: Arithmetic, images: Tensor) -> list[Tensor]:
    """Return answers, gradients and moved buffers of one step of a copy in the images' precision, without dropout."""
    copied = copy.deepcopy(graph).to(images.dtype)
    move_zeros(copied)
    for node in copied.graph.nodes:
        if node.target in _DROPOUTS:
            node.update_arg(1, 0.0)
    copied.recompile()
    if learns:
        arranged = arrange(copied, layout)
    else:
        arranged = arrange_scoring(copied, layout)
        arranged.refresh()
    torch.manual_seed(0)
    with torch.set_grad_enabled(learns):
        with torch.autocast(images.device.type, torch.bfloat16, enabled=layout.precision == "bfloat16"):
            answers = arranged(images)
        if learns:
            answers.float().square().sum().backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in copied.parameters()]
    moved = [buffer.double() for buffer in copied.buffers()]
    return [torch.cat([tensor.flatten() for tensor in kind]) for kind in ([answers.detach()], gradients, moved) if kind]


def move_zeros(network: nn.Module) -> None:
    """Give weights that are all zero other numbers, the same each time: behind them no gradient could be compared."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=generator).mul(0.1))


def _far(found: Tensor, expected: Tensor) -> bool:
    if not expected.isfinite().all():
        return False  # a broken network is not the layout's fault
    return bool((found - expected).abs().max() > NEAR * expected.abs().max())


# --- whole vectors ----------------------------------------------------------------------------------------

_SAME_CHANNELS = tuple(
    getattr(aten, name).default
    for name in (
        *("relu", "relu6", "leaky_relu", "elu", "gelu", "silu", "mish", "hardtanh", "hardswish", "sigmoid", "tanh"),
        *("relu_", "relu6_", "leaky_relu_", "elu_", "gelu_", "silu_", "mish_", "hardtanh_", "hardswish_"),
        *("sigmoid_", "tanh_", "dropout", "dropout_", "feature_dropout", "feature_dropout_"),
        *("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"),
    )
)
"""Operators that make each channel of their result from that channel of their first argument alone."""

_TERM_BY_TERM = (aten.add.Tensor, aten.add_.Tensor, aten.mul.Tensor, aten.mul_.Tensor)


def _pad_channels(graph: Graph) -> None:
    """Let convolutions make more channels, up to whole vectors, and cut them off where they cannot be passed on.

    Zeros are put behind weights and biases anew in every step, so there is nothing in them to learn, and
    what reads the additional channels multiplies them by zeros. Dropout draws numbers for them too: its
    masks are others than without.
    """
    own: dict[Node, int] = {}  # maps with more channels than the network's own, and how many these are
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
    """Give a node the network's own channels alone: a view, so that what writes to them writes to the maps."""
    if maps in own:
        with before.graph.inserting_before(before):
            cut = before.graph.call_function(aten.slice.Tensor, (maps, 1, 0, own[maps]))
        before.replace_input_with(maps, cut)


def _pad_weight(weight: Tensor, outputs: int, inputs: int) -> Tensor:
    return F.pad(weight, [0, 0, 0, 0, 0, inputs, 0, outputs]).contiguous(memory_format=torch.channels_last)


def _on_both_sides(padding: Any, kernel: Sequence[int], dilation: Sequence[int]) -> list[int] | None:
    """Return a convolution's padding in numbers, or None where opposite sides are padded differently."""
    if padding == "valid":
        return [0, 0]
    if padding != "same":
        return list(padding)
    both = [step * (length - 1) for step, length in zip(dilation, kernel, strict=True)]
    return None if any(length % 2 for length in both) else [length // 2 for length in both]


def convolve_one_channel(maps: Tensor, weight: Tensor, *settings: Any) -> Tensor:
    """Convolve maps of one channel to parts of a vector; what the weight learns is summed in float32.

    In bfloat16 oneDNN takes four times as long for that gradient; forward it is the faster.
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


# --- batch norm -------------------------------------------------------------------------------------------


def _replace_batch_norm(graph: Graph, compiled: bool) -> None:
    """Replace batch norm over maps, where it normalises by the batch's own statistics."""
    for node in graph.find_nodes(op="call_function", target=aten.batch_norm.default):
        given, last = arguments(node), node
        if not given["training"] or given["input"].meta["val"].ndim != 4:
            continue
        settings = [given[argument] for argument in _SETTINGS]
        following = next(iter(node.users)) if len(node.users) == 1 else node
        if compiled and following.target in ACTIVATIONS and node.meta["val"].dtype == torch.float32:
            last = following
            settings.append(ACTIVATIONS[following.target])
        with graph.inserting_before(node):
            replaced = graph.call_function(batch_norm_in_sums if compiled else batch_norm, tuple(settings))
        replaced.meta = dict(node.meta)  # the next batch norm may ask for its shape
        last.replace_all_uses_with(replaced)
        for done in dict.fromkeys((last, node)):
            graph.erase_node(done)


_SETTINGS = ("input", "weight", "bias", "running_mean", "running_var", "momentum", "eps")


def batch_norm(
    maps: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
) -> Tensor:
    """Normalise (N, C, H, W) maps as torch does in training mode; channels behind the last weight become zeros."""
    more = maps.shape[1]
    mean, variance = _lengthened(running_mean, more), _lengthened(running_var, more)
    learned = _lengthened(weight, more), _lengthened(bias, more)
    normalised = torch.batch_norm(maps, *learned, mean, variance, True, momentum, eps, False)
    for running, moved in ((running_mean, mean), (running_var, variance)):
        if running is not None and moved is not None and moved is not running:
            running.copy_(moved[: len(running)])
    return normalised


def batch_norm_in_sums(
    maps: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    activation: int = 0,
) -> Tensor:
    """Do what `batch_norm` does in sums of two stages: what torch.compile makes of torch's own takes longer.

    Args:
        activation: what follows, as `kernels.ACTIVATIONS` counts it: then both are one kernel of this project's own.
            Without, the compiler joins it to what stands before and behind, which is faster.
    """
    channels = maps.shape[1]
    ones_and_zeros = maps.new_ones(channels, dtype=torch.float32), maps.new_zeros(channels, dtype=torch.float32)
    long_weight, long_bias = (
        default if given is None else _lengthened(given, channels).float()  # autocast has computed ones in bfloat16
        for given, default in zip((weight, bias), ones_and_zeros, strict=True)
    )
    if activation:
        normalised, mean, variance = normalise(maps, long_weight, long_bias, eps, activation)
    else:
        normalised, mean, variance = _BatchNorm.apply(maps, long_weight, long_bias, eps)
        normalised = normalised.contiguous(memory_format=memory_format(maps))
    if running_mean is not None and running_var is not None:
        count = maps.numel() // channels
        with torch.no_grad():
            running_mean.lerp_(mean[: len(running_mean)], momentum)
            unbiased = count / (count - 1) if count > 1 else math.nan
            running_var.lerp_(variance[: len(running_var)] * unbiased, momentum)
    return normalised


def _batch_norm_and_activation(maps: Tensor, *settings: Any) -> Tensor:
    *own, activation = settings if len(settings) == len(_SETTINGS) else (*settings, 0)
    normalised = batch_norm(maps, *own)
    return (F.relu, F.silu)[activation - 1](normalised) if activation else normalised


_TORCHS = {batch_norm_in_sums: _batch_norm_and_activation, silu: F.silu, max_pool: F.max_pool2d}


@overload
def _lengthened(per_channel: Tensor, channels: int) -> Tensor: ...
@overload
def _lengthened(per_channel: Tensor | None, channels: int) -> Tensor | None: ...
def _lengthened(per_channel: Tensor | None, channels: int) -> Tensor | None:
    if per_channel is None or len(per_channel) == channels:
        return per_channel
    return F.pad(per_channel, [0, channels - len(per_channel)])


class _BatchNorm(torch.autograd.Function):
    """Ioffe & Szegedy 2015, in float32 whatever the maps are; sums within a few images first, while they are cached."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        channels, rows = maps.shape[1], _rows(maps)
        mean = _sums(rows, channels) / (maps.numel() // channels)
        centred = rows.float() - _along(rows, mean)
        variance = _sums(centred.square(), channels) / (maps.numel() // channels)
        inverse = torch.rsqrt(variance + eps)
        ctx.save_for_backward(maps, weight, mean, inverse)
        ctx.mark_non_differentiable(mean, variance)
        normalised = centred * _along(rows, inverse * weight) + _along(rows, bias)
        return _maps(normalised.to(maps.dtype), maps.shape), mean, variance

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        maps, weight, mean, inverse = ctx.saved_tensors
        channels, count = maps.shape[1], maps.numel() // maps.shape[1]
        rows, gradients = _rows(maps), _rows(gradient).float()
        centred = rows.float() - _along(rows, mean)
        for_bias, along = _sums(gradients, channels), _sums(gradients * centred, channels)
        slope = along * inverse.square() / count
        sloping = gradients - _along(rows, for_bias / count) - centred * _along(rows, slope)
        for_maps = (sloping * _along(rows, inverse * weight)).to(maps.dtype)
        return _maps(for_maps, maps.shape), along * inverse, for_bias, None


def _rows(maps: Tensor) -> Tensor:
    """View (N, C, H, W) maps, channels last, as (N / k, H * W, k * C), the last of them whole vectors where N allows.

    As a strided view it is one of memory, and not of the compiler's loops.
    """
    images, channels = maps.shape[:2]
    few = VECTOR // math.gcd(VECTOR, channels)
    few = 1 if images % few else few
    pixels, length = maps.shape[2] * maps.shape[3], few * channels
    lying = maps.contiguous(memory_format=torch.channels_last)
    return lying.as_strided((images // few, pixels, length), (pixels * length, length, 1))


def _maps(rows: Tensor, shape: torch.Size) -> Tensor:
    """View rows as maps again."""
    _, channels, height, width = shape
    return rows.as_strided(shape, (channels * height * width, 1, channels * width, channels))


def _sums(rows: Tensor, channels: int) -> Tensor:
    return rows.sum(1, dtype=torch.float32).sum(0).view(-1, channels).sum(0)


def _along(rows: Tensor, per_channel: Tensor) -> Tensor:
    length = rows.shape[-1]
    return per_channel.repeat(length // len(per_channel)).as_strided((length,), (1,))
