"""Check the plug-in's own `forward`, before it is exported: its output and its trainable tensors."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from harness.audit.graph import where
from harness.audit.probe import TRAINED_TOGETHER, made_up_images, quiet, restored
from harness.audit.sizes import size_that_runs
from harness.errors import AuditError, ContractError, device_hint


def probe_forward(network: nn.Module, path: str) -> int:
    """Run the plug-in's `forward` in both modes and check its output and its trainable tensors.

    Returns:
        A number of images that it takes in training.

    Raises:
        ContractError: it raises, or returns something other than (N, 10) finite float32 logits.
        AuditError: it makes a parameter, nothing is trainable, or a trainable tensor is not registered.
    """
    made: list[str] = []

    def note(module: nn.Module, name: str, _parameter: object) -> None:
        lines = [frame for frame in traceback.extract_stack() if frame.filename == path]
        made.append(f"{path}:{lines[-1].lineno}" if lines else path)

    hook = register_module_parameter_registration_hook(note)
    try:
        for training in (False, True):
            count = TRAINED_TOGETHER
            try:
                predictions = _predictions_of(network, count, training, path)
            except ContractError:
                if not training or (count := size_that_runs(network)) == TRAINED_TOGETHER:
                    raise
                predictions = _predictions_of(network, count, training, path)
    finally:
        hook.remove()
    if made:
        raise AuditError(
            "parameter-in-forward",
            "forward creates a parameter.",
            where=made[0],
            allowed="All parameters of a network are created in build.",
            hint="Create the layer in __init__, or delete it if nothing uses it.",
        )
    if not predictions.requires_grad:
        raise AuditError(
            "untrainable",
            "No parameter of the network would learn: its output in training mode has no gradient.",
            where=path,
            allowed="The output depends on at least one nn.Parameter that requires a gradient.",
            hint="Remove torch.no_grad, detach() or requires_grad=False.",
        )
    registered = {id(parameter) for parameter in network.parameters()}
    for leaf in _leaves(predictions):
        if id(leaf) not in registered:
            raise AuditError(
                "unregistered",
                f"forward uses a trainable tensor of shape {tuple(leaf.shape)} that the network does not register.",
                where=path,
                allowed="Layers are attributes or in nn.ModuleList or nn.Sequential; tensors are nn.Parameters.",
                hint="A plain Python list or dict of layers hides them: use nn.ModuleList or nn.ModuleDict.",
            )
    return count


def _predictions_of(network: nn.Module, count: int, training: bool, path: str) -> Tensor:
    images = made_up_images(count)
    try:
        with restored(network), quiet():
            network.train(training)
            predictions = network(images)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        said = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise ContractError(
            "forward-raises",
            f"forward raised {said}{_layer_behind(error, network)}",
            where=where("".join(traceback.format_exception(error)), path),
            allowed="forward takes (N, 1, 28, 28) float images and returns (N, 10) logits.",
            hint=device_hint(said) or "Fix that line or that layer.",
        ) from error
    wrong = ""
    if not isinstance(predictions, Tensor):
        wrong = f"a {type(predictions).__name__}"
    elif tuple(predictions.shape) != (len(images), 10):
        wrong = f"shape {tuple(predictions.shape)} for {len(images)} images"
    elif predictions.device.type != "cpu":
        wrong = f"a tensor on the device {predictions.device}"
    elif predictions.dtype != torch.float32:
        wrong = f"{predictions.dtype}"
    elif not bool(predictions.isfinite().all()):
        wrong = "numbers that are not finite"
    if wrong:
        raise ContractError(
            "output",
            f"forward returns {wrong}.",
            where=path,
            allowed="Allowed: a float32 tensor of shape (N, 10) for (N, 1, 28, 28) images.",
            hint=device_hint(wrong) or "Fix the last layer.",
        )
    return predictions


def _layer_behind(error: BaseException, network: nn.Module) -> str:
    """Return `` in layer 3 (Linear)`` for the innermost layer that led to `error`, or an empty string."""
    names = {id(module): name for name, module in network.named_modules()}
    for frame, _line in reversed(list(traceback.walk_tb(error.__traceback__))):
        module = frame.f_locals.get("self")
        if isinstance(module, nn.Module) and names.get(id(module)):
            return f" in layer {names[id(module)]} ({type(module).__name__})"
    return ""


def _leaves(predictions: Tensor) -> Iterator[Tensor]:
    """Yield the leaf tensors that gradients of `predictions` would reach."""
    todo: list[Any] = [predictions.grad_fn]
    seen: set[Any] = {None}
    while todo:
        function = todo.pop()
        if function in seen:
            continue
        seen.add(function)
        if hasattr(function, "variable"):
            yield function.variable
        todo.extend(parent for parent, _ in function.next_functions)
