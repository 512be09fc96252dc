"""Laid out anew, a network answers and learns as it did: whatever its operators, its channels, its batch norm."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F

from harness.audit import audit
from harness.layout import VECTOR, arrange, batch_norm, batch_norm_in_sums
from harness.spec import Arithmetic

PADDED = Arithmetic(channels_last=True, padded=True)

IMAGES = torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def exported(network: nn.Module) -> GraphModule:
    return audit(network, "network.py").train.module()


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 6, 5, stride=2)
        self.second = nn.Conv2d(6, 10, 12)

    def forward(self, images: Tensor) -> Tensor:
        return self.second(F.relu(self.first(images))).flatten(1)


# --- channels last ----------------------------------------------------------------------------------------


def test_maps_are_channels_last_from_the_first_convolution_on() -> None:
    network = exported(Plain())
    arrange(network, Arithmetic(channels_last=True))
    maps = F.conv2d(torch.rand(2, 1, 28, 28), network.first.weight)
    assert maps.is_contiguous(memory_format=torch.channels_last)


def test_weights_are_laid_out_channels_last_and_stay_the_same_parameters() -> None:
    network = exported(Plain())
    values = [parameter.clone() for parameter in network.parameters()]
    before = {name: id(parameter) for name, parameter in network.named_parameters()}
    arrange(network, Arithmetic(channels_last=True))
    for layer in (network.first, network.second):
        assert layer.weight.stride() == torch.empty_like(layer.weight, memory_format=torch.channels_last).stride()
    assert {name: id(parameter) for name, parameter in network.named_parameters()} == before
    assert all(map(torch.equal, network.parameters(), values))


class Viewing(nn.Module):
    """Calls `view` on maps, as most networks do before their linear layer; `doubles` them through it."""

    def __init__(self, doubles: bool) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 5, 5, stride=8)
        self.last = nn.Linear(45, 10)
        self.doubles = doubles

    def forward(self, images: Tensor) -> Tensor:
        maps = self.convolution(images)
        flat = maps.view(images.shape[0], -1)
        if self.doubles:
            flat.mul_(2)
        return self.last(maps.flatten(1)) + flat.mean()


def test_a_view_of_maps_is_the_same_view_channels_last() -> None:
    found = audit(Viewing(doubles=False), "network.py")
    for graph in (found.train.module(), found.evaluation.module()):
        before = graph(IMAGES)
        assert torch.allclose(arrange(graph, Arithmetic(channels_last=True))(IMAGES), before, atol=1e-6)


def test_a_view_that_is_written_through_is_not_quietly_another_network() -> None:
    network = exported(Viewing(doubles=True))
    arrange(network, Arithmetic(channels_last=True))
    with pytest.raises(RuntimeError, match="view"):
        network(IMAGES)


# --- whole vectors ----------------------------------------------------------------------------------------


class Residual(nn.Module):
    """Written to in place, added, gated and joined: what is padded meets what is not."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 14, 5, stride=3)
        self.second = nn.Conv2d(14, 14, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(14, affine=False)
        self.gate = nn.Conv2d(14, 14, 1)
        self.last = nn.Linear(28, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.first(images), inplace=True)
        more = self.norm(self.second(maps))
        more += maps
        more.mul_(torch.sigmoid(self.gate(F.adaptive_avg_pool2d(more, 1))))
        joined = torch.cat([maps, more], 1) + 1
        joined[:, :3] -= 1
        return self.last(joined.amax((2, 3)))


class Separable(nn.Module):
    """A depthwise convolution, a grouped one, group norm, a view of maps and a softmax over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 30, 3, stride=3)
        self.depthwise = nn.Conv2d(30, 30, 3, groups=30, padding="same")
        self.grouped = nn.Conv2d(30, 30, 1, groups=2)
        self.norm = nn.GroupNorm(5, 30)
        self.pointwise = nn.Conv2d(30, 12, 1)
        self.last = nn.Linear(12 * 9, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.gelu(self.depthwise(F.leaky_relu(self.first(images))))
        maps = F.softmax(self.pointwise(F.silu(self.norm(self.grouped(maps)))), 1)
        return self.last(F.max_pool2d(maps, 3).view(images.shape[0], -1))


class Bare(nn.Module):
    """Batch norm straight on a convolution, and another convolution straight on it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 13, 7, stride=3)
        self.norm = nn.BatchNorm2d(13)
        self.last = nn.Conv2d(13, 10, 8)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.norm(self.first(images))).flatten(1)


def pass_through(network: Callable[[Tensor], Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Return the answers, the gradients and the moved statistics of one training pass."""
    torch.manual_seed(0)
    answers = network(IMAGES)
    F.cross_entropy(answers, torch.arange(len(IMAGES))).backward()
    found = {name: buffer.clone() for name, buffer in module.named_buffers()} | {"answers": answers.detach()}
    gradients = {f"{name}'s": value.grad for name, value in module.named_parameters() if value.grad is not None}
    return found | gradients


@pytest.mark.parametrize("make", [Residual, Separable, Bare])
def test_padded_channels_change_neither_answers_nor_gradients_nor_statistics(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network = make()
    reference, padded = exported(network), exported(copy.deepcopy(network))
    arranged = arrange(padded, PADDED)
    expected, found = pass_through(reference, reference), pass_through(arranged, padded)
    assert expected.keys() == found.keys()
    for name in expected:
        assert torch.allclose(found[name], expected[name], rtol=1e-4, atol=1e-5), name


def widths(network: GraphModule) -> list[int]:
    """Return how many channels each convolution makes."""
    made: list[int] = []

    class Seen(torch.fx.Interpreter):
        def call_function(self, target: object, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
            result = super().call_function(target, args, kwargs)  # type: ignore[arg-type]
            if target in (torch.ops.aten.conv2d.default, torch.ops.aten.conv2d.padding):
                made.append(result.shape[1])
            return result

    Seen(network).run(IMAGES)
    return made


@pytest.mark.parametrize(
    ("make", "expected"), [(Residual, [16, 16, 16]), (Separable, [32, 32, 30, 16]), (Bare, [16, 10])]
)
def test_channels_are_rounded_up_to_whole_vectors_where_a_third_more_is_enough(
    make: Callable[[], nn.Module], expected: list[int]
) -> None:
    network = exported(make())
    arrange(network, PADDED)
    assert widths(network) == expected


@given(inputs=st.integers(1, 40), outputs=st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_a_convolution_is_padded_by_at_most_a_third(inputs: int, outputs: int) -> None:
    network = exported(
        nn.Sequential(
            nn.Conv2d(1, inputs, 9, stride=9), nn.Conv2d(inputs, outputs, 3), nn.Flatten(), nn.Linear(outputs, 10)
        )
    )
    before = network(IMAGES)
    assert torch.allclose(arrange(network, PADDED)(IMAGES), before, atol=1e-5)
    for real, made in zip((inputs, outputs), widths(network), strict=True):
        assert made == real or (made % VECTOR == 0 and real < made <= 4 / 3 * real)


def test_float32_channels_are_left_alone() -> None:
    network = exported(Residual())
    arrange(network, Arithmetic(channels_last=True))
    assert widths(network) == [14, 14, 14]


# --- batch norm -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ours", [batch_norm, batch_norm_in_sums])
@given(
    shape=st.tuples(st.integers(2, 9), st.integers(1, 7), st.integers(1, 6), st.integers(1, 6)),
    affine=st.booleans(),
    tracks=st.booleans(),
    momentum=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60)
def test_batch_norm_is_torchs(
    ours: Callable[..., Tensor],
    shape: tuple[int, int, int, int],
    affine: bool,
    tracks: bool,
    momentum: float,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    maps, slope = 3 * torch.randn(shape) + 2, torch.randn(shape)

    def passed(norm: Callable[..., Tensor]) -> list[Tensor]:
        inputs = maps.clone().requires_grad_()
        weight, bias = torch.linspace(0.5, 2, shape[1]), torch.linspace(-1, 1, shape[1])
        learned = [weight.requires_grad_(), bias.requires_grad_()] if affine else [None, None]
        running = [torch.zeros(shape[1]), torch.ones(shape[1])] if tracks else [None, None]
        result = norm(inputs, *learned, *running, momentum, 1e-5)
        result.backward(slope)
        gradients = [tensor.grad for tensor in (inputs, *learned) if tensor is not None]
        return [result.detach(), *gradients, *(tensor for tensor in running if tensor is not None)]

    def torchs(
        inputs: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, momentum: float, eps: float
    ) -> Tensor:
        return F.batch_norm(inputs, mean, var, weight, bias, True, momentum, eps)

    for here, there in zip(passed(ours), passed(torchs), strict=True):
        assert torch.allclose(here, there, rtol=1e-3, atol=1e-3)


def test_batch_norm_right_after_batch_norm_is_spelled_out_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    twice = nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=4), nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10)
    )
    network = audit(twice, "twice.py").train.module()
    images = torch.rand(5, 1, 28, 28)
    before = network(images)
    assert torch.allclose(arrange(network, Arithmetic(execution="compiled"))(images), before, atol=1e-4)
