"""Prepare a network for fast training and scoring: channels last, padded channels, and kernels with few passes.

None of it changes the function that the network computes, except for rounding. docs/performance.md has the measurements
behind each step.
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
    """Change a network's memory layout and operators, in place, for a compute mode.

    Args:
        network: in training mode; it must be an exported graph if `mode` is compiled or padded.
        mode: how its steps are computed.

    Returns:
        A function that maps a full batch of images to logits. The network itself still takes batches of any size;
        torch.compile makes code for one size.
    """
    if mode.channels_last:
        for parameter in network.parameters():
            if parameter.ndim == 4:  # contiguous() would not change a weight of one channel
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
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns if there is no GPU
    # Use torch's own random numbers: the compiler's are slower, and would give dropout other masks than eager steps.
    options: dict[str, Any] = {"fallback_random": True}
    if mode.padded:
        options["cpp.simdlen"] = 16 * VECTOR  # with 32, half would be left to a slow remainder loop
    return torch.compile(network, dynamic=False, options=options)


def accelerate_scoring(network: GraphModule, mode: ComputeMode) -> Scoring:
    """Prepare a graph for scoring, in place, and return a function that maps a batch of any size to float32 logits.

    Its parameters and buffers stay the same tensors in the same layout. Call `Scoring.refresh` before the first use and
    whenever they have changed.

    Args:
        network: the graph in evaluation mode.
        mode: how the training of the network is computed.
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
    """Return an accelerated network with torch's own operators in place of this project's, over the same tensors."""
    same = over_the_same_tensors(network)
    for node in same.graph.nodes:
        node.target = TORCHS.get(node.target, node.target)
    same.recompile()
    return same


def delete_torn_code(error: Exception) -> bool:
    """Delete the incomplete library of a killed compiler from torch's cache, and return whether that was the error.

    torch would otherwise load the file in every later run of the network.
    """
    torn = re.search(r"ImportError: (\S+\.so): (?:file too short|invalid ELF header)", str(error))
    if torn:
        Path(torn[1]).unlink(missing_ok=True)
    return torn is not None


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
