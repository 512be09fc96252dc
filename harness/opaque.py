"""Operators that torch.compile leaves to torch's own kernels, where what it makes of them takes longer.

Its code for max pooling scatters gradients one by one. Its code for an exponential has vectors half as long as torch's,
and is repeated in every pass over the maps that needs the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def max_pool(
    maps: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
) -> Tensor:
    """Pool (N, C, H, W) maps as torch does."""
    return _pool(maps, kernel_size, stride or kernel_size, padding, dilation, ceil_mode)[0]


_SETTINGS = "int[] kernel_size, int[] stride, int[] padding, int[] dilation, bool ceil_mode"


@torch.library.custom_op("harness::max_pool", mutates_args=(), schema=f"(Tensor maps, {_SETTINGS}) -> (Tensor, Tensor)")
def _pool(maps: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
    return aten.max_pool2d_with_indices(maps, *settings)


@torch.library.custom_op(
    "harness::max_pool_backward",
    mutates_args=(),
    schema=f"(Tensor gradient, Tensor maps, {_SETTINGS}, Tensor places) -> Tensor",
)
def _pool_backward(gradient: Tensor, maps: Tensor, *settings_and_places: Any) -> Tensor:
    return aten.max_pool2d_with_indices_backward(gradient, maps, *settings_and_places)


@_pool.register_fake
def _(maps: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
    return aten.max_pool2d_with_indices(maps, *settings)


@_pool_backward.register_fake
def _(gradient: Tensor, maps: Tensor, *settings: Any) -> Tensor:
    return torch.empty_like(maps)


def _keep_places(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    maps, *ctx.settings = inputs
    ctx.save_for_backward(maps, output[1])
    ctx.mark_non_differentiable(output[1])


def _to_places(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    maps, places = ctx.saved_tensors
    return _pool_backward(gradient, maps, *ctx.settings, places), *[None] * 5


_pool.register_autograd(_to_places, setup_context=_keep_places)


def silu(maps: Tensor) -> Tensor:
    """Multiply each number of a tensor by its own sigmoid, as torch does."""
    return _silu(maps)


@torch.library.custom_op("harness::silu", mutates_args=())
def _silu(maps: Tensor) -> Tensor:
    return aten.silu(maps)


@torch.library.custom_op("harness::silu_backward", mutates_args=())
def _silu_backward(gradient: Tensor, maps: Tensor) -> Tensor:
    return aten.silu_backward.grad_input(gradient, maps, grad_input=torch.empty_like(maps))


@_silu.register_fake
def _(maps: Tensor) -> Tensor:
    return torch.empty_like(maps)


@_silu_backward.register_fake
def _(gradient: Tensor, maps: Tensor) -> Tensor:
    return torch.empty_like(maps)


def _keep_maps(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _along_slope(ctx: Any, gradient: Tensor) -> Tensor:
    return _silu_backward(gradient, *ctx.saved_tensors)


_silu.register_autograd(_along_slope, setup_context=_keep_maps)

OPAQUE = {aten.max_pool2d.default: max_pool, aten.silu.default: silu}
"""What takes the place of an operator in compiled code."""
