"""This project's own kernels give torch's results and gradients, by any number of threads, and are built once."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from harness.training import compute
from harness.training.kernels import ACTIVATIONS, _library, max_pool, normalise, silu, silu_in_place

pytestmark = pytest.mark.skipif(not compute.has_compiler(), reason="no C++ compiler with Python's headers")

aten = torch.ops.aten
NEAR = {torch.float32: 1e-6, torch.bfloat16: 2**-7}  # of the largest: a rounding of each result, and of what it is from
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def made(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def passed(operator: Callable[..., Tensor], maps: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
    maps = maps.clone(memory_format=torch.preserve_format).requires_grad_()
    result = operator(maps, *settings)
    (gradient,) = torch.autograd.grad(result, maps, torch.linspace(-1, 1, result.numel()).view(result.shape).to(result))
    return result.detach(), gradient


def near(found: Tensor, exact: Tensor, dtype: torch.dtype, times: float = 1.0) -> bool:
    return bool((found - exact).abs().max() <= times * NEAR[dtype] * exact.abs().max().clamp(min=1e-3))


# --- batch norm, and what follows it ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", list(NEAR))
@pytest.mark.parametrize("activation", [None, aten.relu.default, aten.silu.default])
@given(
    shape=st.tuples(st.integers(2, 9), st.integers(1, 40), st.integers(1, 12), st.integers(1, 12)),
    far=st.floats(-30, 30),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25)
def test_batch_norm_and_activation_match_exact_results(
    shape: tuple[int, int, int, int], far: float, seed: int, activation: Any, dtype: torch.dtype
) -> None:
    maps = (made(shape, seed) + far).to(dtype)
    slope = made(shape, seed + 1).to(dtype)
    weight, bias = torch.linspace(0.5, 2, shape[1]), torch.linspace(-1, 1, shape[1])

    def learned(norm: Callable[..., Tensor], kind: torch.dtype) -> list[Tensor]:
        inputs = [
            each.to(kind if each is maps or kind is torch.float64 else each.dtype) for each in (maps, weight, bias)
        ]
        inputs = [each.clone().requires_grad_() for each in inputs]
        result = norm(*inputs)
        result.backward(slope.to(kind))
        return [result.detach(), *(each.grad for each in inputs if each.grad is not None)]

    def exact(inputs: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        result = F.batch_norm(inputs, None, None, scale, offset, True, 0.0, 1e-3)
        return activation(result) if activation else result

    def ours(*inputs: Tensor) -> Tensor:
        return normalise(*inputs, 1e-3, ACTIVATIONS.get(activation, 0))[0]

    if activation is aten.relu.default and dtype is torch.bfloat16:
        slope[(exact(maps.double(), weight.double(), bias.double()).abs() < 1e-2)] = 0  # on either side of the bend
    found, expected = learned(ours, dtype), learned(exact, torch.float64)
    rounded = 2 + abs(far)  # a mean in float32 is rounded by more, the further it is from zero
    size = expected[0].abs().max().clamp(min=1)  # before the bias is added and negative numbers become zero
    assert (found[0].double() - expected[0]).abs().max() <= rounded * NEAR[dtype] * size
    for here, there in zip(found[1:], expected[1:], strict=True):
        size = (slope.double().square().sum() / shape[1]).sqrt()  # a sum's rounding is that of what it adds up
        assert (here.double() - there).abs().max() <= 20 * rounded * NEAR[dtype] * max(there.abs().max(), size)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_batch_norm_keeps_memory_layout(layout: torch.memory_format) -> None:
    maps = made((3, 4, 9, 8)).contiguous(memory_format=layout)
    for each in passed(lambda maps: normalise(maps, torch.ones(4), torch.zeros(4), 1e-5, 2)[0], maps):
        assert each.is_contiguous(memory_format=layout)


def test_means_and_variances_match_batch() -> None:
    maps = 1000 + made((8, 5, 6, 7))
    _, mean, variance = normalise(maps, torch.ones(5), torch.zeros(5), 1e-5, 0)
    exact = maps.double().transpose(0, 1).flatten(1)
    assert torch.allclose(mean.double(), exact.mean(1), rtol=2e-7)
    assert torch.allclose(variance.double(), exact.var(1, correction=0), rtol=1e-4)


@pytest.mark.parametrize("activation", [0, *ACTIVATIONS.values()])
def test_batch_norm_propagates_nan(activation: int) -> None:
    maps = made((2, 3, 4, 4))
    maps[0, 1, 2, 3] = torch.nan
    result = normalise(maps, torch.ones(3), torch.zeros(3), 1e-5, activation)[0]
    assert result[:, 1].isnan().all()
    assert not result[:, [0, 2]].isnan().any()


# --- silu alone -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", list(NEAR))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_silu_matches_exact_result(layout: torch.memory_format, dtype: torch.dtype) -> None:
    maps = (8 * made((3, 4, 9, 8))).to(dtype).contiguous(memory_format=layout)
    found, expected = passed(silu, maps), passed(F.silu, maps.double())
    for here, there in zip(found, expected, strict=True):
        assert near(here.double(), there, dtype)
        assert here.is_contiguous(memory_format=layout)
    assert torch.equal(silu_in_place(maps), found[0])


def test_silu_saturates_far_from_zero() -> None:
    assert silu(torch.tensor([-1e4, -200.0, 200.0, 1e4])).allclose(torch.tensor([0.0, 0.0, 200.0, 1e4]), atol=1e-30)
    assert torch.equal(silu(torch.tensor([-1e36, -1e38])), torch.tensor([-0.0, -0.0]))
    assert silu(torch.tensor([torch.nan, -torch.inf])).isnan().all()


# --- max pooling ------------------------------------------------------------------------------------------

WINDOWS = [
    ([2, 2],),
    ([2],),
    ([2, 2], [1, 3]),
    ([2, 2], [2, 2], [1, 1]),
    ([3, 2], [2, 1], [1, 0], [1, 2], True),
    ([3, 3], [2, 2], [0, 0], [1, 1], True),
]


@pytest.mark.parametrize("dtype", list(NEAR))
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("channels", [3, 8, 21])
def test_pooling_matches_torch_on_ties(
    channels: int, window: tuple[Any, ...], layout: torch.memory_format, dtype: torch.dtype
) -> None:
    maps = made((3, channels, 9, 8)).round().to(dtype).contiguous(memory_format=layout)
    (here, gradient), (there, expected) = passed(max_pool, maps, *window), passed(F.max_pool2d, maps.float(), *window)
    assert torch.equal(here.float(), there)
    assert near(gradient.float(), expected, dtype)
    assert here.is_contiguous(memory_format=layout)
    assert gradient.is_contiguous(memory_format=layout)


def test_pooling_propagates_nan() -> None:
    maps = made((1, 8, 4, 4))
    maps[0, 0, 0, 0] = torch.nan
    assert torch.equal(max_pool(maps, [2, 2]).isnan(), F.max_pool2d(maps, 2).isnan())


# --- all of them ------------------------------------------------------------------------------------------


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_thread_count_changes_no_bit() -> None:
    found = []
    for count in (1, 3):
        torch.set_num_threads(count)
        maps = made((7, 12, 10, 10))
        found.append([*passed(lambda maps: normalise(maps, torch.ones(12), torch.ones(12), 1e-5, 2)[0], maps)])
        found[-1] += [*passed(silu, maps), *passed(max_pool, maps, [2, 2])]
    assert all(torch.equal(one, three) for one, three in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("normalise", (torch.ones(4), torch.zeros(4), 1e-5, 2)),
        ("silu", ()),
        ("pool", ([2, 2], [2, 2], [0, 0], [1, 1], False)),
        ("pool", ([3, 3], [2, 2], [1, 1], [1, 1], True)),
        ("pool", ([2, 2], [3, 3], [1, 0], [1, 1], True)),
    ],
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_operators_declare_right_shapes_and_gradients(
    name: str, settings: tuple[Any, ...], layout: torch.memory_format
) -> None:
    maps = made((3, 4, 9, 8)).contiguous(memory_format=layout).requires_grad_()
    torch.library.opcheck(getattr(torch.ops.harness, name).default, (maps, *settings))


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder where no kernels are yet."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    _library.cache_clear()
    yield tmp_path / f"harness_kernels_{os.getuid()}"
    _library.cache_clear()


def test_kernels_are_built_once_and_again_if_truncated(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silu(torch.zeros(1))
    (built,) = elsewhere.iterdir()
    _library.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "run", lambda *_, **__: pytest.fail("built again"))
        silu(torch.zeros(1))
    assert [built] == list(elsewhere.iterdir())
    built.unlink()  # that of this process stays as it is
    built.write_bytes(b"\x7fELF")
    _library.cache_clear()
    assert silu(torch.ones(1)).item() > 0.7


def test_failed_build_leaves_no_file(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(subprocess.CalledProcessError):
        silu(torch.zeros(1))
    assert not list(elsewhere.iterdir())
