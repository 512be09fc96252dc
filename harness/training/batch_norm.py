"""Batch norm for channels-last feature maps, with sums in stages that lose less precision."""

from __future__ import annotations

import math
from typing import Any, overload

import torch
from torch import Tensor
from torch.fx import Graph
from torch.nn import functional as F

from harness.audit import arguments
from harness.training.kernels import ACTIVATIONS, VECTOR, max_pool, memory_format, normalise, silu

aten = torch.ops.aten


def replace_batch_norm(graph: Graph, compiled: bool) -> None:
    """Replace batch norm of feature maps in a graph, in place, where it uses the batch's own statistics."""
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
    """Normalise (N, C, H, W) feature maps as torch does in training mode; channels without a weight become zeros.

    torch sums channels-last feature maps sequentially in float32, which gives gradients a relative error of up to
    0.01. Here each sum is over the batch for each pixel and then over pixels, with torch's own kernels.
    """
    if maps.is_contiguous(memory_format=torch.channels_last):
        normalised, mean, variance = _BatchNormByPixel.apply(maps, *_scale_and_offset(maps, weight, bias), eps)
        _move_statistics(running_mean, running_var, mean, variance, momentum, maps.numel() // maps.shape[1])
        return normalised
    channels = maps.shape[1]
    mean, variance = _padded_to(running_mean, channels), _padded_to(running_var, channels)
    learned = _padded_to(weight, channels), _padded_to(bias, channels)
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
    """Compute `batch_norm` in compiled code, with sums in two stages; torch.compile's own batch norm is slower.

    Args:
        activation: the activation that follows, as a value of `kernels.ACTIVATIONS`, or 0. If there is one, both are
            computed by one kernel of this project. If not, the compiler fuses the operator with its neighbours, which
            is faster if channels fill whole vectors. If they do not, its remainder loop is slow, and the kernel is
            used as well.
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
    """Return scale and offset, (C,) each, in at least float32: under autocast, computed ones are bfloat16."""
    kind, channels = torch.promote_types(maps.dtype, torch.float32), maps.shape[1]
    scale = maps.new_ones(channels, dtype=kind) if weight is None else _padded_to(weight, channels).to(kind)
    return scale, maps.new_zeros(channels, dtype=kind) if bias is None else _padded_to(bias, channels).to(kind)


def _move_statistics(
    running_mean: Tensor | None,
    running_var: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    momentum: float,
    count: int,
) -> None:
    """Update running statistics, in place, with those of a batch that has `count` values per channel."""
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean[: len(running_mean)], momentum)
            unbiased = count / (count - 1) if count > 1 else math.nan
            running_var.lerp_(variance[: len(running_var)] * unbiased, momentum)


def _batch_norm_and_activation(maps: Tensor, *settings: Any) -> Tensor:
    *own, activation = settings if len(settings) == len(_SETTINGS) else (*settings, 0)
    normalised = batch_norm(maps, *own)
    return (F.relu, F.silu)[activation - 1](normalised) if activation else normalised


TORCHS = {batch_norm_in_sums: _batch_norm_and_activation, silu: F.silu, max_pool: F.max_pool2d}


@overload
def _padded_to(per_channel: Tensor, channels: int) -> Tensor: ...
@overload
def _padded_to(per_channel: Tensor | None, channels: int) -> Tensor | None: ...
def _padded_to(per_channel: Tensor | None, channels: int) -> Tensor | None:
    if per_channel is None or len(per_channel) == channels:
        return per_channel
    return F.pad(per_channel, [0, channels - len(per_channel)])


class _BatchNormByPixel(torch.autograd.Function):
    """Batch norm (Ioffe & Szegedy 2015) of channels-last maps; float32 for bfloat16 maps, else in their precision."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        channels = maps.shape[1]
        rows = _pixels_as_channels(maps)
        nothing = weight.new_zeros(rows.shape[1])  # without it, torch would sum bfloat16 in bfloat16
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
        if maps.dtype == torch.bfloat16:  # with this mean, torch's sums have a relative error of 1e-5 to 3e-5
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
    """Return the gradients of the maps (if `to_maps`), the weight and the bias."""
    wanted = [to_maps, True, True]
    found: tuple[Tensor, Tensor, Tensor] = aten.native_batch_norm_backward(
        gradient, maps, weight, None, None, mean, inverse, True, 0.0, wanted
    )
    return found


def _pixels_as_channels(maps: Tensor) -> Tensor:
    """View (N, C, H, W) channels-last maps as (1, H * W * C, N, 1)."""
    images, length = len(maps), maps[0].numel()
    return maps.as_strided((1, length, images, 1), (images * length, 1, length, length))


class _BatchNorm(torch.autograd.Function):
    """Batch norm (Ioffe & Szegedy 2015) in float32 for maps of any precision; it first sums a few cached images."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        channels, rows = maps.shape[1], _rows(maps)
        mean = _sums(rows, channels) / (maps.numel() // channels)
        centred = rows.float() - _repeated(rows, mean)
        variance = _sums(centred.square(), channels) / (maps.numel() // channels)
        inverse = torch.rsqrt(variance + eps)
        ctx.save_for_backward(maps, weight, mean, inverse)
        ctx.mark_non_differentiable(mean, variance)
        normalised = centred * _repeated(rows, inverse * weight) + _repeated(rows, bias)
        return _maps(normalised.to(maps.dtype), maps.shape), mean, variance

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        maps, weight, mean, inverse = ctx.saved_tensors
        channels, count = maps.shape[1], maps.numel() // maps.shape[1]
        rows, gradients = _rows(maps), _rows(gradient).float()
        centred = rows.float() - _repeated(rows, mean)
        for_bias, along = _sums(gradients, channels), _sums(gradients * centred, channels)
        slope = along * inverse.square() / count
        sloping = gradients - _repeated(rows, for_bias / count) - centred * _repeated(rows, slope)
        for_maps = (sloping * _repeated(rows, inverse * weight)).to(maps.dtype)
        return _maps(for_maps, maps.shape), along * inverse, for_bias, None


def _rows(maps: Tensor) -> Tensor:
    """View (N, C, H, W) channels-last maps as (N / k, H * W, k * C); k * C fills whole vectors if N is divisible by k.

    With a strided view the compiler loops over this shape; it would fold a reshape into loops over the original one.
    """
    images, channels = maps.shape[:2]
    together = VECTOR // math.gcd(VECTOR, channels)
    together = 1 if images % together else together
    pixels, length = maps.shape[2] * maps.shape[3], together * channels
    channels_last = maps.contiguous(memory_format=torch.channels_last)
    return channels_last.as_strided((images // together, pixels, length), (pixels * length, length, 1))


def _maps(rows: Tensor, shape: torch.Size) -> Tensor:
    """View rows as maps again."""
    _, channels, height, width = shape
    return rows.as_strided(shape, (channels * height * width, 1, channels * width, channels))


def _sums(rows: Tensor, channels: int) -> Tensor:
    return rows.sum(1, dtype=torch.float32).sum(0).view(-1, channels).sum(0)


def _repeated(rows: Tensor, per_channel: Tensor) -> Tensor:
    length = rows.shape[-1]
    return per_channel.repeat(length // len(per_channel)).as_strided((length,), (1,))
