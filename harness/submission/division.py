"""Divisions of whole numbers: the processor ends a process that divides the smallest one by -1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from harness.submission.plain import malformed

_DIVISORS = {
    **dict.fromkeys(("div", "divide", "floor_divide", "remainder", "fmod"), "other"),
    **dict.fromkeys(("avg_pool2d", "avg_pool3d"), "divisor_override"),
}
"""Names of the argument by which operators divide."""

_WIDE = (torch.int32, torch.int64)
"""Types that the processor divides as they are; shorter ones are made longer first."""


def refuse_unknown_divisor(operator: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuse a division of whole numbers by a tensor, whose values may be -1 for some images, or by -1.

    Raises:
        AuditError: it is one.
    """
    _, divisor = _division(operator, args, kwargs)
    if isinstance(divisor, Tensor) or divisor == -1:
        raise malformed(f"{operator} of whole numbers by -1, or by a tensor; divide as float, or by another number")


def refuse_overflow(operator: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuse a division of the smallest whole number by -1.

    Raises:
        AuditError: it is one.
    """
    dividend, divisor = _division(operator, args, kwargs)
    if dividend is None:
        return
    smallest = torch.iinfo(dividend.dtype).min if isinstance(dividend, Tensor) else -(2**63)
    if bool((torch.as_tensor(dividend) == smallest).any()) and bool((torch.as_tensor(divisor) == -1).any()):
        raise malformed(f"{operator} of the smallest whole number by -1")


def _division(operator: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return dividend and divisor of a division that yields whole numbers; two times None for any other operator."""
    base = operator._schema.name.partition("::")[2].removesuffix("_")
    if base not in _DIVISORS:
        return None, None
    given = dict(zip((argument.name for argument in operator._schema.arguments), args, strict=False)) | dict(kwargs)
    dividend, divisor = given.get("self"), given.get(_DIVISORS[base])
    rounds = not base.startswith("div") or given.get("rounding_mode") is not None
    is_wide = dividend.dtype in _WIDE if isinstance(dividend, Tensor) else type(dividend) is int
    is_whole = not divisor.is_floating_point() if isinstance(divisor, Tensor) else type(divisor) is int
    return (dividend, divisor) if rounds and is_wide and is_whole else (None, None)
