"""How a network lies in memory while it trains: weights channels last, maps in whole vectors, kernels of few passes.

None of it changes what is learned. The measurements behind each stand in docs/performance.md.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule

from harness.audit import arguments, over_the_same_tensors
from harness.spec import ComputeMode
from harness.training.batch_norm import TORCHS, replace_batch_norm
from harness.training.folding import CONVOLUTIONS, Scoring, fold, overwritten
from harness.training.kernels import KERNELS, VECTOR, silu, silu_in_place
from harness.training.padding import pad_channels

aten = torch.ops.aten


def accelerate(network: nn.Module, mode: ComputeMode) -> Callable[[Tensor], Tensor]:
    """Lay out a network, in place, and return what maps a full batch to logits.

    The network itself goes on mapping batches of any size; torch.compile makes code for one size at a time.

    Args:
        network: in training mode; an exported graph where `mode` is compiled or padded.
    """
    if mode.channels_last:
        for parameter in network.parameters():
            if parameter.ndim == 4:  # contiguous() would leave a weight of one channel, and all maps after it
                parameter.data = parameter.data.to(memory_format=torch.channels_last)
        if isinstance(network, GraphModule):
            fold(network)
    compiled = mode.execution == "compiled"
    if isinstance(network, GraphModule) and mode.channels_last and _device(network).type == "cpu":
        replace_batch_norm(network.graph, compiled)
        if compiled:
            _use_kernels(network.graph)
        if mode.padded:
            pad_channels(network.graph)
        network.recompile()
    if not compiled:
        return network
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns that there is no GPU
    # torch's own random numbers: the compiler's take longer, and would give dropout other masks than an eager step.
    options: dict[str, Any] = {"fallback_random": True}
    if mode.padded:
        options["cpp.simdlen"] = 16 * VECTOR  # of the 32 that fit into 512 bits, half would be left to a slow rest
    return torch.compile(network, dynamic=False, options=options)


def accelerate_scoring(network: GraphModule, mode: ComputeMode) -> Scoring:
    """Lay out a graph that is scored, in place, and return what maps a batch of any size to logits, in float32.

    Its parameters and buffers stay the same tensors, laid out as they are; once they have moved, `refresh` it.
    """
    if mode.channels_last:
        fold(network)
        if mode.execution == "compiled":
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


def without_kernels(network: GraphModule) -> GraphModule:
    """Return an arranged network without kernels and batch norm for compiled code, over the same tensors."""
    same = over_the_same_tensors(network)
    for node in same.graph.nodes:
        node.target = TORCHS.get(node.target, node.target)
    same.recompile()
    return same


def delete_torn_code(error: Exception) -> bool:
    """Delete what a compiler that was killed has left half written in torch's cache; return whether it was that.

    torch takes the file for a finished one, in every later run of the network.
    """
    torn = re.search(r"ImportError: (\S+\.so): (?:file too short|invalid ELF header)", str(error))
    if torn:
        Path(torn[1]).unlink(missing_ok=True)
    return torn is not None


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
