"""Adapt what torch.export cannot follow, for the time of an export: other operators, the same results."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from harness.audit.probe import calls_of, quiet, restored
from harness.errors import AuditError


@contextlib.contextmanager
def exportable(network: nn.Module, training: bool, path: str) -> Iterator[None]:
    """Set a network to its mode, in a form that torch.export can follow, and restore it at the end of a block.

    - Batch norm with ``momentum=None`` reads its counter as a Python number: the graph gets tensors instead.
    - torch.cdist selects its formula by the size of the batch: the graph gets the exact one.
    - What an override of ``train()`` computes when training ends becomes the first step of the evaluation graph.

    Raises:
        AuditError: an override of ``train()`` computes something when training begins.
    """
    overrides = [module for module in network.modules() if type(module).train is not nn.Module.train]
    with contextlib.ExitStack() as stack:
        stack.enter_context(restored(network))
        network.train()
        if overrides:
            _refuse_work_before_training(network, overrides[0], path)
        if overrides and not training:
            stack.callback(network.register_forward_pre_hook(_end_training).remove)
        else:
            network.train(training)
        for module in network.modules():
            if _is_cumulative(module):
                module.forward = functools.partial(_cumulative_batch_norm, module)
                stack.callback(delattr, module, "forward")
        stack.enter_context(_ExactDistances())
        yield
    network.train(training)


def _refuse_work_before_training(network: nn.Module, override: nn.Module, path: str) -> None:
    with restored(network), quiet(), torch.no_grad():
        network.eval()
        calls = calls_of(network.train)
    if calls:
        raise AuditError(
            "train-override",
            f"train() of {type(override).__name__} changes tensors when training begins ({calls[0].split()[0]}).",
            where=path,
            allowed="An override of train() may compute when training ends: the evaluation graph begins with that.",
            hint="Do it where mode is False, or in forward where self.training is true.",
        )


def _end_training(network: nn.Module, _images: Any) -> None:
    network.train(False)


def _is_cumulative(module: nn.Module) -> bool:
    is_torchs = isinstance(module, _BatchNorm) and type(module).forward is _BatchNorm.forward
    return is_torchs and module.momentum is None and bool(module.track_running_stats)


def _cumulative_batch_norm(norm: Any, maps: Tensor) -> Tensor:
    """Compute what a batch norm with ``momentum=None`` does: its statistics are means over all batches."""
    if not norm.training:
        return _BatchNorm.forward(norm, maps)
    norm._check_input_dim(maps)
    norm.num_batches_tracked.add_(1)
    own = [maps.new_zeros(norm.num_features) for _ in range(2)]  # a momentum of 1 makes these the batch's statistics
    normalised = F.batch_norm(maps, own[0], own[1], norm.weight, norm.bias, True, 1.0, norm.eps)
    for running, batch in zip((norm.running_mean, norm.running_var), own, strict=True):
        running.lerp_(batch, norm.num_batches_tracked.reciprocal())
    return normalised


class _ExactDistances(TorchFunctionMode):
    """Lets torch.cdist compute differences for every size of the batch, and not products for more than 25 images."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        if func is torch.cdist and given.get("compute_mode") == "use_mm_for_euclid_dist_if_necessary":
            given["compute_mode"] = "donot_use_mm_for_euclid_dist"
        return func(*args, **given)
