"""How the steps of a training are computed on this machine: one rule, and what it asks for.

Nothing here is timed, so noise never chooses the bits: the same machine computes the same run in the same
way. The measurements behind the rule stand in docs/performance.md.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from harness.graph import arguments
from harness.spec import Arithmetic, Precision

WORTH_COMPILING = 500_000
"""Images to train on from which compiling, 6 to 16 s, pays for itself on the CPU."""

_MMAP_THRESHOLD, _TRIM_THRESHOLD, _TOP_PAD = -3, -1, -2  # glibc's malloc.h


# --- the rule ---------------------------------------------------------------------------------------------


def rule(device: str, has_bfloat16: bool, has_compiler: bool, images: int) -> Arithmetic:
    """Return how to train on `images` images, all epochs together."""
    precision: Precision = "bfloat16" if has_bfloat16 else "float32"
    if device == "cuda":
        return Arithmetic(precision, channels_last=True, execution="captured")
    pays = has_compiler and images >= WORTH_COMPILING
    return Arithmetic(precision, channels_last=True, execution="compiled" if pays else "eager")


def choose(device: str, images: int) -> Arithmetic:
    """Apply the rule to this machine, which is asked for a compiler only where one could be used."""
    fast = has_bfloat16(device)
    asks = rule(device, fast, True, images).execution == "compiled"
    return rule(device, fast, asks and has_compiler(), images)


def has_bfloat16(device: str) -> bool:
    """Whether the device multiplies bfloat16 numbers itself; emulated, they are slower than float32."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


@functools.cache
def has_compiler() -> bool:
    """Whether there is a C++ compiler that finds what torch.compile includes: OpenMP and Python's headers."""
    compiler = shutil.which(os.environ.get("CXX") or "g++") or shutil.which("clang++")
    if compiler is None:
        return False
    headers = sysconfig.get_path("include")
    command = [compiler, "-fsyntax-only", "-fopenmp", f"-I{headers}", "-x", "c++", "-"]
    try:
        source = b"#include <omp.h>\n#include <Python.h>\n"
        return subprocess.run(command, input=source, capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


# --- the process ------------------------------------------------------------------------------------------


def settle() -> None:
    """Choose kernels that give the same bits each time; a plug-in operator that has none only warns."""
    torch.backends.cudnn.allow_tf32 = False  # by default convolutions would round to 10 bits on a GPU
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    keep_memory(2**31 - 1)


def keep_memory(limit: int) -> None:
    """Let glibc keep up to `limit` freed bytes for the next step; elsewhere nothing is changed.

    By default it hands the large blocks of a step back to the system and the next step waits while they
    are mapped and zeroed again: nearly half of a training on the CPU.
    """
    if not sys.platform.startswith("linux"):
        return
    glibc = ctypes.CDLL(None)
    if not hasattr(glibc, "gnu_get_libc_version"):
        return
    glibc.mallopt(_MMAP_THRESHOLD, 32 * 2**20)  # the highest it takes: larger blocks are always mapped
    glibc.mallopt(_TRIM_THRESHOLD, limit)
    glibc.mallopt(_TOP_PAD, 2**26 if limit > 2**26 else 2**17)
    glibc.malloc_trim(0)  # what was kept so far is handed back, whoever kept it


# --- the network ------------------------------------------------------------------------------------------


def arrange(network: nn.Module, arithmetic: Arithmetic) -> Callable[[Tensor], Tensor]:
    """Lay out a network's weights, in place, and return what maps a full batch to logits.

    The network itself goes on mapping batches of any size; torch.compile makes code for one size at a time.
    """
    if arithmetic.channels_last:
        for parameter in network.parameters():
            if parameter.ndim == 4:  # contiguous() would leave a weight of one channel, and all maps after it
                parameter.data = parameter.data.to(memory_format=torch.channels_last)
    if arithmetic.execution != "compiled":
        return network
    if isinstance(network, GraphModule):
        _spell_out_batch_norm(network)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns that there is no GPU
    # torch's own random numbers: the compiler's take longer, and would give dropout other masks than an eager step.
    return torch.compile(network, dynamic=False, options={"fallback_random": True})


def _spell_out_batch_norm(network: GraphModule) -> None:
    """Replace batch norm over maps by sums in two stages: what torch.compile makes of its own takes longer."""
    for node in network.graph.find_nodes(op="call_function", target=torch.ops.aten.batch_norm.default):
        given = arguments(node)
        if not given["training"] or given["input"].meta["val"].ndim != 4:
            continue
        with network.graph.inserting_before(node):
            settings = tuple(given[argument] for argument in _SETTINGS)
            spelled_out = network.graph.call_function(batch_norm, settings)
        spelled_out.meta = dict(node.meta)  # the next batch norm may ask for its shape
        node.replace_all_uses_with(spelled_out)
        network.graph.erase_node(node)
    network.recompile()


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
    """Normalise (N, C, H, W) maps over all but the channels and move the statistics; as torch's in training mode."""
    channels = maps.shape[1]
    weight = maps.new_ones(channels, dtype=torch.float32) if weight is None else weight
    bias = maps.new_zeros(channels, dtype=torch.float32) if bias is None else bias
    normalised, mean, variance = _BatchNorm.apply(maps, weight, bias, eps)
    if running_mean is not None and running_var is not None:
        count = maps.numel() // channels
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance * (count / (count - 1)), momentum)
    return normalised


class _BatchNorm(torch.autograd.Function):
    """Ioffe & Szegedy 2015, in float32 whatever the maps are; sums within an image first, while it is in the cache."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        count = maps.numel() // maps.shape[1]
        mean = maps.float().sum((2, 3)).sum(0) / count
        centred = maps.float() - _over_maps(mean)
        variance = centred.square().sum((2, 3)).sum(0) / count
        inverse = torch.rsqrt(variance + eps)
        ctx.save_for_backward(maps, weight, mean, inverse)
        ctx.mark_non_differentiable(mean, variance)
        return (centred * _over_maps(inverse * weight) + _over_maps(bias)).to(maps.dtype), mean, variance

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        maps, weight, mean, inverse = ctx.saved_tensors
        count = maps.numel() // maps.shape[1]
        gradient, centred = gradient.float(), maps.float() - _over_maps(mean)
        for_bias = gradient.sum((2, 3)).sum(0)
        along = (gradient * centred).sum((2, 3)).sum(0)
        slope = along * inverse.square() / count
        for_maps = (gradient - _over_maps(for_bias / count) - centred * _over_maps(slope)) * _over_maps(
            inverse * weight
        )
        return for_maps.to(maps.dtype), along * inverse, for_bias, None


def _over_maps(per_channel: Tensor) -> Tensor:
    return per_channel.view(1, -1, 1, 1)
