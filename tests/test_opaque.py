"""What compiled code leaves to torch gives torch's own results and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.opaque import max_pool, silu

MAPS = torch.randn(3, 4, 9, 8, generator=torch.Generator().manual_seed(0))


def passed(operator: Callable[..., Tensor], maps: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
    maps = maps.clone(memory_format=torch.preserve_format).requires_grad_()
    result = operator(maps, *settings)
    (gradient,) = torch.autograd.grad(result, maps, torch.linspace(-1, 1, result.numel()).view(result.shape).to(result))
    return result, gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("ours", "torchs", "settings"),
    [
        (silu, F.silu, ()),
        (max_pool, F.max_pool2d, ([2, 2],)),
        (max_pool, F.max_pool2d, ([3, 2], [2, 1], [1, 0], [1, 2], True)),
    ],
)
def test_results_gradients_and_layouts_are_torchs(
    ours: Callable[..., Tensor],
    torchs: Callable[..., Tensor],
    settings: tuple[Any, ...],
    layout: torch.memory_format,
    dtype: torch.dtype,
) -> None:
    maps = MAPS.to(dtype).contiguous(memory_format=layout)
    for here, there in zip(passed(ours, maps, *settings), passed(torchs, maps, *settings), strict=True):
        assert torch.equal(here, there)
        assert here.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("name", ["max_pool", "silu"])
def test_the_compiler_is_told_the_right_shapes_and_gradients(name: str) -> None:
    maps = MAPS.clone().requires_grad_()
    settings = ([2, 2], [2, 2], [0, 0], [1, 1], False) if name == "max_pool" else ()
    torch.library.opcheck(getattr(torch.ops.harness, name).default, (maps, *settings))
