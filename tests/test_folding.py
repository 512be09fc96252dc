"""Folded, a graph answers and learns as it did, in fewer operators; what is not recognised is left alone."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from audited import ARCHITECTURES, evaluation_graph, exported_file, exports, sizes
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F

from harness.spec import REFERENCE, ComputeMode, Execution
from harness.training import accelerate_scoring, compute
from harness.training.folding import fold, gather, normalised, whole_maps

aten = torch.ops.aten
IMAGES = torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(0))
CHANNELS_LAST = ComputeMode(channels_last=True)


def exported(network: nn.Module) -> GraphModule:
    """Return a training graph with numbers of its own, in float64, whose rounding crosses no kink."""
    network = copy.deepcopy(network).double().train()
    batch = torch.export.Dim("batch", min=2)
    return torch.export.export(network, (IMAGES[:3].double(),), dynamic_shapes=({0: batch},)).module()


def targets(graph: GraphModule) -> list[object]:
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


def learned(graph: GraphModule) -> dict[str, Tensor]:
    """Return the answers, the gradients and the moved statistics of one training pass."""
    answers = graph(IMAGES.double())
    answers.square().sum().backward()
    found = {f"{name}'s": value.grad.clone() for name, value in graph.named_parameters() if value.grad is not None}
    return found | {name: buffer.clone() for name, buffer in graph.named_buffers()} | {"answers": answers.detach()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.allclose(found[name], expected[name], rtol=1e-9, atol=1e-9), name


class Filtered(nn.Module):
    """A convolution whose filters are what `moved` makes of one weight, normalised and pooled."""

    def __init__(self, shape: tuple[int, ...], moved: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(1)))
        self.moved = moved

    def forward(self, images: Tensor) -> Tensor:
        return F.conv2d(images, self.moved(self.weight), stride=5).amax((2, 3))


# --- numbers of one parameter that only change places -----------------------------------------------------

MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "flipped": lambda filters: filters.flip(-1),
    "turned": lambda filters: filters.rot90(1, (-2, -1)),
    "half shifted": lambda filters: torch.cat([filters[:, :, 2:], filters[:, :, :2]], 2),
    "rolled": lambda filters: filters.roll(1, 3),
    "transposed": lambda filters: filters.transpose(2, 3),
    "in every pose": lambda filters: torch.stack([filters.rot90(k, (-2, -1)) for k in range(4)]).flatten(0, 1),
    "split and swapped": lambda filters: torch.cat(filters.split(2, 3)[::-1], 3),
    "twice": lambda filters: filters.repeat(2, 1, 1, 1),
    "through a view": lambda filters: filters.reshape(-1, 4, 4).permute(0, 2, 1).unsqueeze(1),
}


@given(names=st.lists(st.sampled_from(sorted(MOVES)), min_size=1, max_size=4))
@settings(max_examples=20)
def test_chain_of_moves_folds_into_one_gather(names: list[str]) -> None:
    def moved(filters: Tensor) -> Tensor:
        for name in names:
            filters = MOVES[name](filters)
        return filters

    network = Filtered((2, 1, 4, 4), moved)
    graph = exported(network)
    folded = copy.deepcopy(graph)
    fold(folded)
    if {*names} <= {"transposed", "through a view"}:
        assert targets(folded) == targets(graph)  # views cost nothing
    else:
        assert targets(folded) == [gather, operator.getitem, aten.conv2d.default, aten.amax.default]
    assert_same(learned(folded), learned(graph))


def test_multichannel_filters_are_channels_last() -> None:
    numbers = torch.arange(24.0)
    order = torch.arange(24).view(2, 3, 2, 2).permute(0, 2, 3, 1).flatten()
    (filters,) = gather([numbers], order, order.argsort().view(-1, 1), [[2, 2, 2, 3]])
    assert torch.equal(filters, numbers.view(2, 3, 2, 2))
    assert filters.is_contiguous(memory_format=torch.channels_last)


class TwoWeights(nn.Module):
    """Two weights turned alike, one of them twice, and a bias for the two poses."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(2, 1, 3, 3)), nn.Parameter(torch.randn(2, 4, 3, 3))
        self.bias = nn.Parameter(torch.randn(2))
        self.last = nn.Linear(4, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.conv2d(images, torch.cat([self.first, self.first.flip(3)]), self.bias.repeat(2), 3)
        maps = F.conv2d(F.silu(maps), torch.cat([self.second, self.second.flip(3)]), None, 3)
        return self.last(maps.mean((2, 3)))


def test_filters_and_biases_share_one_gather() -> None:
    network = TwoWeights()
    graph = exported(network)
    folded = copy.deepcopy(graph)
    fold(folded)
    assert targets(folded).count(gather) == 1
    assert_same(learned(folded), learned(graph))


def overwritten(filters: Tensor) -> Tensor:
    turned = torch.cat([filters, filters.flip(3)])
    return turned.mul_(2)


def part_of_it(filters: Tensor) -> Tensor:
    return torch.cat([filters, filters[:1].flip(3)])


def with_another_number(filters: Tensor) -> Tensor:
    return torch.cat([filters, torch.ones(1, 1, 4, 4, dtype=filters.dtype)])


@pytest.mark.parametrize(
    "moved", [overwritten, part_of_it, with_another_number, lambda filters: filters.transpose(2, 3)]
)
def test_uneven_copying_is_not_folded(moved: Callable[[Tensor], Tensor]) -> None:
    graph = exported(Filtered((2, 1, 4, 4), moved))
    before = targets(graph)
    fold(graph)
    assert targets(graph) == before


def test_gather_adds_no_state_to_network() -> None:
    graph = exported(TwoWeights())
    before = [*graph.state_dict()], len([*graph.buffers()])
    fold(graph)
    assert before == ([*graph.state_dict()], len([*graph.buffers()]))


# --- batch norm -------------------------------------------------------------------------------------------


class ScaledAfterwards(nn.Module):
    def __init__(self, applied: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 5, stride=4)
        self.norm = nn.BatchNorm2d(4, affine=False)
        self.weight, self.bias = nn.Parameter(torch.rand(4, 1, 1) + 0.5), nn.Parameter(torch.randn(1, 4, 1, 1))
        self.last = nn.Linear(144, 10)
        self.applied = applied

    def forward(self, images: Tensor) -> Tensor:
        normalised = self.norm(self.convolution(images))
        return self.last(F.silu(self.applied(normalised, self.weight, self.bias)).flatten(1))


def written_after(maps: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """Overwrite the scale between its use and that of the offset."""
    scaled = maps * scale
    scale.add_(1)
    return (scaled + offset) / scale


def test_scale_and_offset_fold_into_batch_norm() -> None:
    network = ScaledAfterwards(lambda maps, weight, bias: maps * weight + bias)
    graph = exported(network)
    folded = copy.deepcopy(graph)
    fold(folded)
    assert not {aten.mul.Tensor, aten.add.Tensor} & {*targets(folded)}
    assert_same(learned(folded), learned(graph))


@pytest.mark.parametrize(
    "applied",
    [
        lambda maps, weight, bias: maps * weight,
        lambda maps, weight, bias: torch.add(maps * weight, bias, alpha=2),
        lambda maps, weight, bias: maps * maps + bias,
        lambda maps, weight, bias: maps * weight + bias + maps,
        lambda maps, weight, bias: written_after(maps, weight * 2, bias),
    ],
)
def test_other_uses_of_normalised_maps_are_kept(applied: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    graph = exported(ScaledAfterwards(applied))
    before = targets(graph)
    fold(graph)
    assert targets(graph) == before


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_batch_norm_folds_into_filters(affine: bool, biased: bool) -> None:
    torch.manual_seed(0)
    maps, filters, offsets = torch.randn(2, 3, 5, 5), torch.randn(4, 3, 3, 3), torch.randn(4) if biased else None
    mean, variance = torch.randn(4), torch.rand(4) + 0.1
    weight, bias = (torch.randn(4), torch.randn(4)) if affine else (None, None)
    expected = F.batch_norm(F.conv2d(maps, filters, offsets), mean, variance, weight, bias)
    found = F.conv2d(maps, *normalised(filters, offsets, mean, variance, weight, bias, 1e-5))
    assert torch.allclose(found, expected, atol=1e-4)


# --- convolutions that cover the whole map ----------------------------------------------------------------


@pytest.mark.parametrize("biased", [True, False])
def test_whole_map_depthwise_convolution_is_a_product(biased: bool) -> None:
    torch.manual_seed(0)
    maps, filters, bias = torch.randn(5, 3, 7, 4), torch.randn(6, 1, 7, 4), torch.randn(6) if biased else None
    expected = F.conv2d(maps, filters, bias, groups=3)
    assert torch.allclose(whole_maps(maps, filters, bias), expected, atol=1e-5)


def test_product_gradient_keeps_memory_layout() -> None:
    maps = torch.randn(5, 3, 7, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    (gradient,) = torch.autograd.grad(whole_maps(maps, torch.randn(3, 1, 7, 4), None).sum(), maps)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("kernel", "padding", "folds"), [(28, 0, True), (27, 0, False), (28, 1, False)])
def test_only_whole_map_depthwise_convolution_is_replaced(kernel: int, padding: int, folds: bool) -> None:
    depthwise = nn.Conv2d(2, 2, kernel, padding=padding, groups=2)
    graph = exported(nn.Sequential(nn.Conv2d(1, 2, 1), depthwise))
    fold(graph)
    assert (whole_maps in targets(graph)) is folds


# --- scoring ----------------------------------------------------------------------------------------------


def moved_statistics(network: GraphModule) -> GraphModule:
    """Give every norm statistics of its own, as training would."""
    generator = torch.Generator().manual_seed(2)
    for name, buffer in network.named_buffers():
        if buffer.is_floating_point():
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + ("var" in name) * 0.5)
    return network


@sizes
@pytest.mark.parametrize("path", ARCHITECTURES, ids=lambda path: path.stem)
def test_accelerated_scoring_matches_graph_in_any_batch(path: Path, size: str) -> None:
    _, network, found = exported_file(path, size)
    executions: tuple[Execution, ...] = ("eager", "compiled") if compute.has_compiler() else ("eager",)
    plain, *others = (
        moved_statistics(found.graphs(network, torch.device("cpu")).evaluation) for _ in (None, *executions)
    )
    for execution, graph in zip(executions, others, strict=True):
        scored = accelerate_scoring(graph, ComputeMode(channels_last=True, execution=execution))
        scored.refresh()
        with torch.no_grad():
            for images in (IMAGES[:2], IMAGES[:3], IMAGES):
                expected = plain(images)
                assert torch.allclose(scored(images), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_refreshed_scoring_uses_current_weights() -> None:
    found = exports(TwoWeights())
    scored, plain = accelerate_scoring(found.evaluation.module(), CHANNELS_LAST), found.evaluation.module()
    with torch.no_grad():
        plain.get_parameter("second").mul_(3)
        scored.refresh()
        assert torch.allclose(scored(IMAGES), plain(IMAGES), atol=1e-5)


class Scored(nn.Module):
    """A convolution whose filters are what `computed` makes of one weight and the images."""

    def __init__(self, computed: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 1, 5, 5, generator=torch.Generator().manual_seed(1)))
        self._ready_0 = nn.Parameter(torch.ones(4, 1, 1, 1))
        self.register_buffer("two", torch.tensor(2.0))
        self.head = nn.Linear(4 * 36, 10)
        self.computed = computed

    def forward(self, images: Tensor) -> Tensor:
        maps = F.conv2d(images, self.computed(self, images) * self._ready_0)
        return self.head(F.max_pool2d(maps.relu_(), 4).flatten(1))


@pytest.mark.parametrize(
    "computed",
    [
        lambda network, images: F.dropout(network.weight.tanh(), 0.1, network.training).mul_(0.5),
        lambda network, images: (network.weight - network.weight.mean()).type_as(images).mul_(0.5),
        lambda network, images: (network.weight - 1).contiguous().mul_(0.5),
        lambda network, images: network.weight * network.two.item(),
        lambda network, images: network.weight.tanh(),
    ],
    ids=["dropout", "type_as", "contiguous", "item", "a name that is taken"],
)
def test_scoring_is_repeatable(
    computed: Callable[[nn.Module, Tensor], Tensor],
) -> None:
    graph = evaluation_graph(Scored(computed))
    expected = graph(IMAGES)
    scored = accelerate_scoring(graph, REFERENCE)
    for _ in range(3):
        scored.refresh()
        assert torch.equal(scored(IMAGES), expected)
        assert torch.equal(scored(IMAGES), expected)


def test_reference_scoring_keeps_graph_operators() -> None:
    graph = evaluation_graph(TwoWeights())
    before = {target for target in targets(graph) if target is not operator.getitem}
    accelerate_scoring(graph, REFERENCE)
    assert {*targets(graph)} <= before
