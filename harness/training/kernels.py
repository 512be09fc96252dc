"""CPU kernels of this project (kernels.cpp) as torch operators, where compiled code is slow.

They compute batch norm with the activation after it, silu, and max pooling. torch's own kernels and the code of its
compiler make more passes over the feature maps and need ten operations to round to bfloat16; docs/performance.md has
the measurements. The kernels are built once per machine, by the C++ compiler that torch.compile needs.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.training.compute import compiler

VECTOR = 16
"""Channels that fill a vector register: 256 bits in bfloat16, 512 bits once converted to float32."""

SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC")

aten = torch.ops.aten


@functools.cache
def _library() -> ctypes.CDLL:
    """Return the library of kernels, built for this processor.

    Raises:
        OSError, subprocess.CalledProcessError: they could not be built.
    """
    inputs = (SOURCE.read_bytes(), repr(FLAGS).encode(), repr(sorted(torch.cpu.get_capabilities().items())).encode())
    name = f"{hashlib.sha256(b' '.join(inputs)).hexdigest()[:16]}.so"
    built = Path(tempfile.gettempdir(), f"harness_kernels_{os.getuid()}", name)
    if not built.exists():
        _build(built)
    try:
        return ctypes.CDLL(str(built))
    except OSError:  # incomplete, after a power failure
        _build(built)
        return ctypes.CDLL(str(built))


def _build(library: Path) -> None:
    library.parent.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as fresh:
        partial = Path(fresh, library.name)
        subprocess.run([compiler(), *FLAGS, SOURCE, "-o", partial], check=True, capture_output=True)
        partial.replace(library)  # atomic: several processes may build it at once


def _call(name: str, maps: Tensor, *arguments: Tensor | ctypes.Structure | int | float, activation: int = 0) -> None:
    """Call a kernel in the version for the dtype of `maps`; its last argument is the number of threads."""
    table = (ctypes.c_void_p * (activation + 1)).in_dll(_library(), f"{name}_{str(maps.dtype).removeprefix('torch.')}")
    given: list[Any] = []
    for each in (*arguments, torch.get_num_threads()):
        if isinstance(each, Tensor):
            given.append(ctypes.c_void_p(each.data_ptr()))
        elif isinstance(each, ctypes.Structure):
            given.append(ctypes.byref(each))
        else:
            given.append(ctypes.c_float(each) if isinstance(each, float) else ctypes.c_int64(each))
    kernel = table[activation]
    assert kernel is not None
    _KERNEL(kernel)(*given)


_KERNEL = ctypes.CFUNCTYPE(None)


def _channels_last(maps: Tensor) -> Tensor:
    return maps.contiguous(memory_format=torch.channels_last)


def memory_format(maps: Tensor) -> torch.memory_format:
    """Return the memory format of torch's own results, which must be kept: a network may have views of them."""
    is_channels_last = maps.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_channels_last else torch.contiguous_format


def _empty_channels_last(maps: Tensor) -> Tensor:
    return torch.empty_like(maps, memory_format=torch.channels_last)


def _like_torchs(maps: Tensor) -> Tensor:
    return torch.empty_like(maps, memory_format=memory_format(maps))


# --- batch norm, and what follows it ----------------------------------------------------------------------

ACTIVATIONS = {
    aten.relu.default: 1,
    aten.relu_.default: 1,
    aten.silu.default: 2,
    aten.silu_.default: 2,
}
"""Numbers in kernels.cpp of the activations that its batch norm applies; 0 is none."""


def normalise(maps: Tensor, weight: Tensor, bias: Tensor, eps: float, activation: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return batch norm (Ioffe & Szegedy 2015) with an activation after it, and its (C,) means and variances.

    Args:
        maps: (N, C, H, W) in bfloat16 or float32; the result has the same memory format.
        weight, bias: (C,) in float32.
        activation: a value of `ACTIVATIONS`, or 0.
    """
    return _normalise(maps, weight, bias, eps, activation)[:3]


@torch.library.custom_op("harness::normalise", mutates_args=())
def _normalise(
    maps: Tensor, weight: Tensor, bias: Tensor, eps: float, activation: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    results, statistics = _empty_channels_last(maps), [torch.empty_like(weight) for _ in range(3)]
    images, channels = maps.shape[:2]
    read = (_channels_last(maps), weight.contiguous(), bias.contiguous())
    sizes = (images, maps[0].numel(), channels)
    _call("normalise", maps, *read, results, *statistics, *sizes, eps, activation=activation)
    mean, variance, inverse = statistics
    return results.contiguous(memory_format=memory_format(maps)), mean, variance, inverse


@_normalise.register_fake
def _(maps: Tensor, weight: Tensor, bias: Tensor, eps: float, activation: int) -> tuple[Tensor, ...]:
    return _like_torchs(maps), torch.empty_like(weight), torch.empty_like(weight), torch.empty_like(weight)


@torch.library.custom_op("harness::normalise_backward", mutates_args=())
def _normalise_backward(
    gradient: Tensor, maps: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inverse: Tensor, activation: int
) -> tuple[Tensor, Tensor, Tensor]:
    found = _empty_channels_last(maps), torch.empty_like(weight), torch.empty_like(bias)
    read = (_channels_last(gradient), _channels_last(maps), weight.contiguous(), bias.contiguous(), mean, inverse)
    sizes = (len(maps), maps[0].numel(), maps.shape[1])
    _call("normalise_backward", maps, *read, *found, *sizes, activation=activation)
    return found[0].contiguous(memory_format=memory_format(maps)), *found[1:]


@_normalise_backward.register_fake
def _(gradient: Tensor, maps: Tensor, weight: Tensor, bias: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return _like_torchs(maps), torch.empty_like(weight), torch.empty_like(bias)


def _keep_statistics(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    maps, weight, bias, _, ctx.activation = inputs
    _, mean, variance, inverse = output
    ctx.save_for_backward(maps, weight, bias, mean, inverse)
    ctx.mark_non_differentiable(mean, variance, inverse)


def _through_statistics(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    return *_normalise_backward(gradient, *ctx.saved_tensors, ctx.activation), None, None


_normalise.register_autograd(_through_statistics, setup_context=_keep_statistics)


# --- silu alone -------------------------------------------------------------------------------------------


def silu(maps: Tensor) -> Tensor:
    """Return x times sigmoid(x) for each value x of a bfloat16 or float32 tensor."""
    return _silu(maps)


def silu_in_place(maps: Tensor) -> Tensor:
    """Apply `silu` in place, without a gradient, and return the maps."""
    _call("silu", maps, maps, maps, maps.numel())
    return maps


@torch.library.custom_op("harness::silu", mutates_args=())
def _silu(maps: Tensor) -> Tensor:
    results = torch.empty_like(maps)
    _call("silu", maps, _with_strides_of(results, maps), results, maps.numel())
    return results


@torch.library.custom_op("harness::silu_backward", mutates_args=())
def _silu_backward(gradient: Tensor, maps: Tensor) -> Tensor:
    found = torch.empty_like(maps)
    _call("silu_backward", maps, _with_strides_of(found, gradient), _with_strides_of(found, maps), found, maps.numel())
    return found


@_silu.register_fake
def _(maps: Tensor) -> Tensor:
    return torch.empty_like(maps)


@_silu_backward.register_fake
def _(gradient: Tensor, maps: Tensor) -> Tensor:
    return torch.empty_like(maps)


def _with_strides_of(other: Tensor, numbers: Tensor) -> Tensor:
    """Return a tensor with the strides of another, copied if necessary."""
    return numbers if numbers.stride() == other.stride() else torch.empty_like(other).copy_(numbers)


def _keep_maps(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _along_slope(ctx: Any, gradient: Tensor) -> Tensor:
    return _silu_backward(gradient, *ctx.saved_tensors)


_silu.register_autograd(_along_slope, setup_context=_keep_maps)


# --- max pooling ------------------------------------------------------------------------------------------


def max_pool(
    maps: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
) -> Tensor:
    """Apply max pooling to (N, C, H, W) maps in bfloat16 or float32, as torch's max_pool2d."""
    return _pool(maps, kernel_size, stride or kernel_size, padding, dilation, ceil_mode)[0]


class _Window(ctypes.Structure):
    """The struct of kernels.cpp: height and width of maps and results, kernel size, stride, padding and dilation."""

    _fields_ = [(f"number_{place}", ctypes.c_int64) for place in range(12)]


_SETTINGS = "int[] kernel_size, int[] stride, int[] padding, int[] dilation, bool ceil_mode"


@torch.library.custom_op("harness::pool", mutates_args=(), schema=f"(Tensor maps, {_SETTINGS}) -> (Tensor, Tensor)")
def _pool(maps: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
    results, places = _pooled(maps, *settings)
    _call("max_pool", maps, _channels_last(maps), results, places, _window(maps, results, settings), *maps.shape[:2])
    return results.contiguous(memory_format=memory_format(maps)), places


@torch.library.custom_op(
    "harness::pool_backward",
    mutates_args=(),
    schema=f"(Tensor gradient, Tensor maps, {_SETTINGS}, Tensor places) -> Tensor",
)
def _pool_backward(gradient: Tensor, maps: Tensor, *settings_and_places: Any) -> Tensor:
    *settings, places = settings_and_places
    found, window = _empty_channels_last(maps), _window(maps, gradient, settings)
    _call("max_pool_backward", maps, _channels_last(gradient), places, found, window, *maps.shape[:2])
    return found.contiguous(memory_format=memory_format(maps))


def _window(maps: Tensor, results: Tensor, settings: Sequence[Any]) -> _Window:
    return _Window(*maps.shape[2:], *results.shape[2:], *(number for each in settings[:4] for number in _pair(each)))


def _pooled(maps: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
    """Return uninitialised tensors for the results, and for the position in its window that each comes from."""
    *pairs, ceil_mode = settings
    axes = zip(maps.shape[2:], *map(_pair, pairs), strict=True)
    shape = (*maps.shape[:2], *(_count(axis, ceil_mode) for axis in axes))
    kinds = maps.dtype, torch.int32
    results, places = (
        torch.empty(shape, dtype=kind, device=maps.device, memory_format=torch.channels_last) for kind in kinds
    )
    return results, places


def _count(axis: tuple[int, ...], ceil_mode: bool) -> int:
    """Return the output size along an axis; in `ceil_mode` the last window may end, but not start, past the padding."""
    length, kernel, stride, padding, dilation = axis
    free = length + 2 * padding - dilation * (kernel - 1) - 1
    places = (free + (stride - 1 if ceil_mode else 0)) // stride + 1
    return places - 1 if ceil_mode and (places - 1) * stride >= length + padding else places


def _pair(setting: Sequence[int]) -> Sequence[int]:
    return setting if len(setting) == 2 else [*setting, *setting]


@_pool.register_fake
def _(maps: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
    results, places = _pooled(maps, *settings)
    return results.contiguous(memory_format=memory_format(maps)), places


@_pool_backward.register_fake
def _(gradient: Tensor, maps: Tensor, *_: Any) -> Tensor:
    return _like_torchs(maps)


def _keep_places(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    maps, *ctx.settings = inputs
    ctx.save_for_backward(maps, output[1])
    ctx.mark_non_differentiable(output[1])


def _to_places(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    maps, places = ctx.saved_tensors
    return _pool_backward(gradient, maps, *ctx.settings, places), *[None] * 5


_pool.register_autograd(_to_places, setup_context=_keep_places)


KERNELS = {aten.max_pool2d.default: max_pool, aten.silu.default: silu}
"""Replacements for torch operators on float32 tensors."""
