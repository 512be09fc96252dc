"""Check that a module hides no numbers from the harness."""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from harness.errors import AuditError

GUARDED_METHODS = (
    "parameters", "named_parameters", "buffers", "named_buffers", "modules", "named_modules", "children",
    "named_children", "state_dict", "load_state_dict", "register_parameter", "register_buffer", "_apply",
    "__call__", "__getattr__", "__getattribute__", "__setattr__",
)  # fmt: skip
"""Methods of ``nn.Module`` through which the harness and torch find a network's numbers."""


def refuse_odd_module(network: nn.Module, path: str) -> None:
    """Refuse a module whose numbers the harness might not find.

    Raises:
        AuditError: it overrides a method of `GUARDED_METHODS`, has a tensor that is not plain, or a weight that
            shares memory with another tensor.
    """
    _refuse_overrides(network, path)
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        refuse_odd_tensor(name, tensor, path)
    _refuse_shared_memory(network, path)


def refuse_odd_tensor(name: str, tensor: Tensor, path: str) -> None:
    """Refuse a tensor that is not plain: the size of others cannot be relied on.

    Raises:
        AuditError: it is of a subclass, sparse or lazy, or has a hook.
    """
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout != torch.strided:
        raise AuditError(
            "tensor",
            f"{name} is a {type(tensor).__name__} ({tensor.layout}), whose numbers the audit cannot count.",
            where=path,
            allowed="Allowed: dense torch.Tensor and torch.nn.Parameter, no subclasses.",
            hint="Give lazy layers their sizes (nn.Linear for nn.LazyLinear); store tables as dense tensors.",
        )
    if tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None):
        raise AuditError(
            "hook",
            f"{name} has a hook: Python code that would run in every training step.",
            where=path,
            allowed="After the audit only the graph is trained; none of the plug-in's Python runs any more.",
            hint="Remove register_hook; weight decay is set in the recipe.",
        )


def _refuse_shared_memory(network: nn.Module, path: str) -> None:
    """Refuse a weight that shares memory with another tensor: once copied to a device, the two would differ."""
    numbers: list[tuple[str, Tensor]] = [*network.named_parameters(), *network.named_buffers()]
    for layer, module in network.named_modules():
        held = ((f"{layer}.{name}".lstrip("."), value) for name, value in vars(module).items())
        numbers += [(name, value) for name, value in held if isinstance(value, Tensor)]
    spans = [(*_span(tensor), name, tensor) for name, tensor in numbers]
    for start, end, weight, parameter in spans:
        if not isinstance(parameter, nn.Parameter):
            continue
        for other_start, other_end, name, tensor in spans:
            if tensor is not parameter and other_start < end and start < other_end:
                raise AuditError(
                    "shared-memory",
                    f"{name} shares memory with the weight {weight}, but is another tensor.",
                    where=path,
                    allowed="Layers may share the same nn.Parameter: `self.b.weight = self.a.weight`.",
                    hint="Use torch.nn.utils.parametrizations.spectral_norm, not torch.nn.utils.spectral_norm."
                    if weight == f"{name}_orig"
                    else "Share the nn.Parameter itself, or copy it with clone().",
                )


def _span(tensor: Tensor) -> tuple[int, int]:
    """Return the start and end address of a tensor's elements."""
    if tensor.layout != torch.strided or not tensor.numel():
        return 0, 0
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()


def _refuse_overrides(network: nn.Module, path: str) -> None:
    for name, module in nn.Module.named_modules(network):
        for method in GUARDED_METHODS:
            owner = next(kind for kind in type(module).__mro__ if method in kind.__dict__)
            if method in module.__dict__ or not _is_torchs_own(owner):
                raise AuditError(
                    "override",
                    f"{name or type(module).__name__} overrides nn.Module.{method}.",
                    where=path,
                    allowed="The harness finds a network's numbers through nn.Module's own methods.",
                    hint=f"Remove the override of {method}.",
                )


def _is_torchs_own(kind: type) -> bool:
    """Whether `kind` is a class of torch or Python, and the one found under its module and name."""
    home = sys.modules.get(kind.__module__)
    named_so = kind.__module__.startswith(("torch.", "builtins"))
    return named_so and getattr(home, kind.__qualname__, None) is kind
