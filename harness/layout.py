"""How a network lies in memory while it trains: weights channels last, maps in whole vectors, kernels of few passes.

None of it changes what is learned. The measurements behind each stand in docs/performance.md.
"""

from __future__ import annotations

import copy
import functools
import logging
import math
import operator
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Interpreter, Node
from torch.fx.node import map_aggregate
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from harness.errors import ran_out_of_memory
from harness.folding import CONVOLUTIONS, Scoring, fold, overwritten
from harness.graph import arguments, cause, over_the_same_tensors, short_name
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
    if isinstance(network, GraphModule) and arithmetic.channels_last and _device(network).type == "cpu":
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
    """Return an arranged network without kernels and batch norm for compiled code, over the same tensors."""
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

NEAR = {torch.float64: 1e-3, torch.float32: 1e-2}
"""How far a result may lie from the plain one, against the largest of its kind, by the precision of both.

In float32, rounding takes a few numbers to the other side of a ReLU, or to another place of a max pooling.
"""

TRIED = 12
"""Images in a trial step."""

_DROPOUTS = tuple(
    getattr(aten, name).default
    for name in ("dropout", "dropout_", "feature_dropout", "feature_dropout_", "alpha_dropout", "feature_alpha_dropout")
)


@dataclass(frozen=True)
class Choice:
    """How a network is trained.

    Attributes:
        arithmetic: how its steps are computed.
        because: why that is not how they should have been; empty where it is.
    """

    arithmetic: Arithmetic
    because: str = ""


def choose_suitable(wanted: Arithmetic, train: GraphModule, evaluation: GraphModule, path: str) -> Choice:
    """Choose `wanted`, or the next best arithmetic by which a network is the same network and can be trained.

    A network may write through a view that channels last are no view of, or use an operator that does not take
    bfloat16. So each candidate takes one step on made-up images, on a copy, beside a plain one. They are compared in
    float64, or in float32 where an operator does not take that.

    Args:
        train, evaluation: graphs of the network with numbers that no seed has a part in; untouched.
        path: file name for the reason.
    """
    unpadded = replace(wanted, padded=False)
    exact = replace(unpadded, precision="float32")
    candidates = (wanted, exact, *(replace(each, channels_last=False) for each in (unpadded, exact)))
    reasons: list[str] = []
    with torch.random.fork_rng():
        trial = _Trial(train, evaluation, path)
        for candidate in dict.fromkeys(candidates):
            reason = trial.why_not(candidate)
            if not reason:
                return Choice(candidate, "; ".join(reasons))
            if reason not in reasons:
                reasons.append(reason)
    return Choice(PLAIN, "; ".join(reasons))


def unrepeatable(chosen: Arithmetic, train: GraphModule) -> tuple[str, ...]:
    """Return the names of operators that may give other bits each time, as torch calls them; after `arithmetic.settle`.

    Args:
        chosen: how the network will be trained.
        train: the graph that is trained, on the device that trains; untouched.
    """
    with torch.random.fork_rng(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        _step(train, True, replace(chosen, execution="eager"), made_up(TRIED, _device(train)))
    named = (re.match(r"(\S+) does not have a deterministic implementation", str(each.message)) for each in said)
    return tuple(sorted({found[1] for found in named if found}))


def made_up(count: int, device: torch.device) -> Tensor:
    """Return images (count, 1, 28, 28) in the range of normalised digits, the same each time: bright blobs on black."""
    generator = torch.Generator().manual_seed(count)
    blobs = torch.rand(count, 1, 7, 7, generator=generator).pow(3)
    return F.interpolate(blobs, scale_factor=4, mode="bilinear").mul(3.2).sub(0.4).to(device)


class _Trial:
    """Trial steps of a network by some arithmetic, beside a plain one."""

    def __init__(self, train: GraphModule, evaluation: GraphModule, path: str) -> None:
        self._graphs, self._path = ((train, True), (evaluation, False)), path
        self._images = made_up(TRIED, _device(train))
        self._compared, self._fails = "", ""
        self._expected: list[dict[str, Tensor]] = []
        for kind in (torch.float64, torch.float32):
            self._exact = self._images.to(kind)
            try:
                self._expected = [_step(*graph, PLAIN, self._exact) for graph in self._graphs]
                break
            except _Failed as failed:
                self._fails = self._say(failed.node, "fails", failed)
                self._compared = f" (compared in float32: {self._say(failed.node, 'fails in float64')})"

    def why_not(self, candidate: Arithmetic) -> str:
        """Say why a network cannot be trained by an arithmetic, or is another network by it; or return nothing."""
        if not self._expected:  # it says so itself when it is trained
            return "" if candidate == PLAIN else self._fails
        layout = replace(candidate, precision="float32", execution="eager")
        how = "channels last" if candidate.channels_last else "laid out anew"
        try:
            for graph, expected in zip(self._graphs, self._expected, strict=True):
                found = _step(*graph, layout, self._exact)
                others = [kind for kind, tensor in expected.items() if _far(found[kind], tensor)]
                if others:
                    node = _first_other(*graph, layout, self._exact)
                    what = "results" if node else " and ".join(others)
                    return self._say(node, f"gives other {what} {how}") + self._compared
            how = candidate.precision
            _step(*self._graphs[0], replace(candidate, execution="eager"), self._images)
        except _Failed as failed:
            return self._say(failed.node, f"fails {'in ' * (how == candidate.precision)}{how}", failed)
        return ""

    def _say(self, node: Node | None, what: str, failed: _Failed | None = None) -> str:
        """Say what an operator, or else the network, does: by name and line, with the first line of an error."""
        name = "the network"
        if node:
            name = short_name(node) or getattr(node.target, "__name__", str(node.target))
            what = f"{what} ({cause(node, self._path)})"
        why = f": {str(failed.__cause__).strip().partition(chr(10))[0]}" if failed else ""
        return f"{name} {what}{why}"


class _Failed(Exception):
    """An operator that cannot be computed, or none where laying out fails; its own error is the cause."""

    def __init__(self, node: Node | None) -> None:
        super().__init__(str(node))
        self.node = node


class _Watched(Interpreter):
    """Runs a graph one operator after the other, and knows which is at work, also on the way back."""

    at: Node

    def run_node(self, n: Node) -> Any:
        self.at = n
        result = super().run_node(n)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.grad_fn is not None:
                tensor.grad_fn.register_prehook(functools.partial(self._goes_back, n))
        return result

    def _goes_back(self, node: Node, _: object) -> None:
        self.at = node


def _step(graph: GraphModule, learns: bool, layout: Arithmetic, images: Tensor) -> dict[str, Tensor]:
    """Return answers, gradients and moved statistics of one step of a copy in the images' precision, without dropout.

    Raises:
        _Failed: an operator cannot be computed so.
    """
    watched: _Watched | None = None
    try:
        copied, runs = _prepared(graph, learns, layout, images.dtype)
        watched = _Watched(runs)
        watched.extra_traceback = False
        with torch.set_grad_enabled(learns):
            with torch.autocast(images.device.type, torch.bfloat16, enabled=layout.precision == "bfloat16"):
                answers = watched.run(images)
            if learns:
                answers.to(images.dtype).square().sum().backward()
    except Exception as error:  # whatever an operator says that cannot be computed so
        if ran_out_of_memory(error):
            raise
        raise _Failed(watched.at if watched else None) from error
    found = {
        "answers": [answers.detach()],
        "gradients": [torch.zeros_like(p) if p.grad is None else p.grad for p in copied.parameters()],
        "statistics": [buffer.double() for buffer in copied.buffers()],
    }
    return {kind: torch.cat([each.flatten() for each in tensors]) for kind, tensors in found.items() if tensors}


def _prepared(
    graph: GraphModule, learns: bool, layout: Arithmetic, precision: torch.dtype
) -> tuple[GraphModule, GraphModule]:
    """Return a copy of a graph for a trial step, and what of it maps images to answers, laid out."""
    copied = copy.deepcopy(graph).to(precision)
    for name, tensor in numbers(copied).items():
        if tensor.dtype == torch.float32:  # a table
            layer, _, short = name.rpartition(".")
            setattr(copied.get_submodule(layer), short, tensor.to(precision))
    move_zeros(copied)
    for node in copied.graph.nodes:
        if node.target in _DROPOUTS:
            node.update_arg(1, 0.0)
        if precision == torch.float64:  # it says float32 where the plug-in did, or where the export noted what it saw
            node.args, node.kwargs = map_aggregate((node.args, node.kwargs), _widened)
    copied.recompile()
    torch.manual_seed(0)
    if learns:
        arrange(copied, layout)
        return copied, copied
    scoring = arrange_scoring(copied, layout)
    scoring.refresh()
    return copied, scoring.network


def _widened(argument: Any) -> Any:
    return torch.float64 if argument is torch.float32 else argument


def numbers(graph: nn.Module) -> dict[str, Tensor]:
    """Return every tensor of a network by name, and of an exported graph also the tables that its operators read."""
    found = dict((*graph.named_parameters(remove_duplicate=False), *graph.named_buffers(remove_duplicate=False)))
    if isinstance(graph, GraphModule):
        read = {
            str(node.target): operator.attrgetter(str(node.target))(graph)
            for node in graph.graph.find_nodes(op="get_attr")
        }
        found.update({name: value for name, value in read.items() if isinstance(value, Tensor)})
    return found


def move_zeros(network: nn.Module) -> None:
    """Give weights that are all zero other numbers, the same each time: behind them no gradient could be compared."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=generator).mul(0.1))


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def _far(found: Tensor, expected: Tensor) -> bool:
    if not expected.isfinite().all():
        return False  # a broken network is not the layout's fault
    near = NEAR[torch.float32 if torch.float32 in (found.dtype, expected.dtype) else torch.float64]
    return not bool((found - expected).abs().max() <= near * expected.abs().max())  # a NaN is far from any number


# --- which operator it is -----------------------------------------------------------------------------------


class _Noting(_Watched):
    """Keeps what each operator returns, and after one that writes all that is there."""

    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph)
        self.noted: dict[str, dict[str, Tensor]] = {}

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        writes = isinstance(n.target, torch._ops.OpOverload) and n.target._schema.is_mutable
        there = {**self.env, n: result} if writes else {n: result}
        self.noted[n.name] = {
            node.name: value.detach().clone() for node, value in there.items() if isinstance(value, Tensor)
        }
        return result


def _first_other(graph: GraphModule, learns: bool, layout: Arithmetic, images: Tensor) -> Node | None:
    """Return the first operator of a graph after which a tensor is another one than plainly, going forward."""
    noted = []
    for how in (PLAIN, layout):
        noting = _Noting(_prepared(graph, learns, how, images.dtype)[1])
        with torch.set_grad_enabled(learns):
            noting.run(images)
        noted.append(noting.noted)
    plainly, laid_out = noted
    for node in graph.graph.nodes:
        found = laid_out.get(node.name, {})
        for name, tensor in plainly.get(node.name, {}).items():
            other = found.get(name)
            if other is not None and other.ndim == tensor.ndim > 1:
                other = other[:, : tensor.shape[1]]  # without padded channels
            if other is not None and other.shape == tensor.shape and tensor.is_floating_point() and _far(other, tensor):
                return node
    return None


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
        given = arguments(node)
        if not given["training"] or given["input"].meta["val"].ndim != 4:
            continue
        settings = [given[argument] for argument in _SETTINGS]
        following = next(iter(node.users)) if len(node.users) == 1 else node
        if compiled and following.target in ACTIVATIONS and node.meta["val"].dtype == torch.float32:
            settings.append(ACTIVATIONS[following.target])
            following.replace_all_uses_with(node)
            graph.erase_node(following)
        node.target, node.args, node.kwargs = batch_norm_in_sums if compiled else batch_norm, tuple(settings), {}


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
    """Normalise (N, C, H, W) maps as torch does in training mode; channels behind the last weight become zeros.

    torch adds up maps that are channels last in one long chain of float32, which takes a gradient up to a hundredth of
    its size away. Here each sum is over the batch at one pixel, then over pixels; it takes torch's own kernels.
    """
    if maps.is_contiguous(memory_format=torch.channels_last):
        normalised, mean, variance = _BatchNormByPixel.apply(maps, *_scale_and_offset(maps, weight, bias), eps)
        _move_statistics(running_mean, running_var, mean, variance, momentum, maps.numel() // maps.shape[1])
        return normalised
    channels = maps.shape[1]
    mean, variance = _lengthened(running_mean, channels), _lengthened(running_var, channels)
    learned = _lengthened(weight, channels), _lengthened(bias, channels)
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
            Without, the compiler joins it to what stands before and behind, which is faster where channels fill
            whole vectors; where they do not, its code for what is left over is slow, and the kernel is used as well.
    """
    long_weight, long_bias = _scale_and_offset(maps, weight, bias)
    if activation or maps.shape[1] % VECTOR:
        normalised, mean, variance = normalise(maps, long_weight, long_bias, eps, activation)
    else:
        normalised, mean, variance = _BatchNorm.apply(maps, long_weight, long_bias, eps)
        normalised = normalised.contiguous(memory_format=memory_format(maps))
    _move_statistics(running_mean, running_var, mean, variance, momentum, maps.numel() // maps.shape[1])
    return normalised


def _scale_and_offset(maps: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return one number a channel, in float32 or better: autocast has computed ones in bfloat16."""
    kind, channels = torch.promote_types(maps.dtype, torch.float32), maps.shape[1]
    scale = maps.new_ones(channels, dtype=kind) if weight is None else _lengthened(weight, channels).to(kind)
    return scale, maps.new_zeros(channels, dtype=kind) if bias is None else _lengthened(bias, channels).to(kind)


def _move_statistics(
    running_mean: Tensor | None,
    running_var: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    momentum: float,
    count: int,
) -> None:
    """Move running statistics, in place, towards those of `count` numbers a channel."""
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean[: len(running_mean)], momentum)
            unbiased = count / (count - 1) if count > 1 else math.nan
            running_var.lerp_(variance[: len(running_var)] * unbiased, momentum)


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


class _BatchNormByPixel(torch.autograd.Function):
    """Ioffe & Szegedy 2015 for maps that are channels last; in float32 for bfloat16 maps, else in their precision."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        channels = maps.shape[1]
        rows = _pixels_as_channels(maps)
        nothing = weight.new_zeros(rows.shape[1])  # without, torch would take sums of bfloat16 in bfloat16
        pixels = torch.batch_norm_update_stats(rows, nothing, nothing.clone(), 0.0)
        means, variances = (each.view(-1, channels) for each in pixels)
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)  # Chan, Golub & LeVeque 1979
        ctx.save_for_backward(maps, weight, mean, torch.rsqrt(variance + eps))
        ctx.mark_non_differentiable(mean, variance)
        return torch.native_batch_norm(maps, weight, bias, mean, variance, False, 0.0, eps)[0], mean, variance

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        maps, weight, mean, inverse = ctx.saved_tensors
        channels, count = maps.shape[1], maps.numel() // maps.shape[1]
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        if maps.dtype == torch.bfloat16:  # by the right mean, torch's sums are good to a hundred thousandth or three
            return *_backward_by_torch(gradient, maps, weight, mean, inverse, to_maps=True), None
        pixels = count // len(maps)
        rows = _pixels_as_channels(gradient), _pixels_as_channels(maps)
        ones, middle, factor = (each.repeat(pixels) for each in (torch.ones_like(mean), mean, inverse))
        learned = _backward_by_torch(*rows, ones, middle, factor, to_maps=False)[1:]
        for_weight, for_bias = (each.view(-1, channels).sum(0) for each in learned)
        scale = inverse * weight
        slope = -scale * inverse * for_weight / count
        constant = -scale * for_bias / count - slope * mean
        lines = maps.permute(0, 2, 3, 1).flatten(1), gradient.permute(0, 2, 3, 1).flatten(1)
        along = [each.repeat(pixels) for each in (constant, slope, scale)]
        found = torch.addcmul(along[0], lines[0], along[1]).addcmul_(lines[1], along[2])
        return found.view_as(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), for_weight, for_bias, None


def _backward_by_torch(
    gradient: Tensor, maps: Tensor, weight: Tensor, mean: Tensor, inverse: Tensor, to_maps: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of maps, if wanted, of weight and of bias."""
    wanted = [to_maps, True, True]
    found: tuple[Tensor, Tensor, Tensor] = aten.native_batch_norm_backward(
        gradient, maps, weight, None, None, mean, inverse, True, 0.0, wanted
    )
    return found


def _pixels_as_channels(maps: Tensor) -> Tensor:
    """View (N, C, H, W) maps, channels last, as (1, H * W * C, N, 1)."""
    images, length = len(maps), maps[0].numel()
    return maps.as_strided((1, length, images, 1), (images * length, 1, length, length))


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
