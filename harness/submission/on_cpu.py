"""Keep a plug-in on the CPU, whatever device it names: the harness moves the finished graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class OnCPU(TorchFunctionMode):
    """Replaces CUDA devices by the CPU in every call of torch that names one."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is Tensor.cuda:
            return args[0]
        named = {name: _moved(value) for name, value in (kwargs or {}).items()}
        if func is Tensor.to:
            args = [_moved(value) for value in args]
        return func(*args, **named)


def _moved(value: Any) -> Any:
    is_named = isinstance(value, torch.device) or (isinstance(value, str) and value.partition(":")[0] == "cuda")
    return "cpu" if is_named and torch.device(value).type == "cuda" else value
