"""With another memory layout a network computes and learns the same, whatever its operators and channels."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from audited import exports, train_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F

from harness.audit.sizes import accepts
from harness.spec import REFERENCE, ComputeMode, Execution, Precision
from harness.training import Choice, accelerate_scoring, choose_compatible, compute, unrepeatable
from harness.training.batch_norm import batch_norm, batch_norm_in_sums
from harness.training.compatible import TRIED, _step
from harness.training.kernels import VECTOR, normalise
from harness.training.memory_layout import accelerate
from harness.training.padding import convolve_one_channel

PADDED = ComputeMode(channels_last=True, padded=True)

needs_compiler = pytest.mark.skipif(not compute.has_compiler(), reason="no C++ compiler with Python's headers")

IMAGES = torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def exported(network: nn.Module) -> GraphModule:
    return train_graph(network)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 6, 5, stride=2)
        self.second = nn.Conv2d(6, 10, 12)

    def forward(self, images: Tensor) -> Tensor:
        return self.second(F.relu(self.first(images))).flatten(1)


# --- channels last ----------------------------------------------------------------------------------------


def test_maps_are_channels_last_from_first_convolution() -> None:
    network = exported(Plain())
    accelerate(network, ComputeMode(channels_last=True))
    maps = F.conv2d(torch.rand(2, 1, 28, 28), network.first.weight)
    assert maps.is_contiguous(memory_format=torch.channels_last)


def test_mode_is_tried_on_a_batch_that_the_graph_accepts() -> None:
    class Groups(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = Plain()
            self.norm = nn.BatchNorm2d(8)

        def forward(self, images: Tensor) -> Tensor:
            if self.training:
                images = self.norm(images.view(-1, 8, 28, 28)).view(-1, 1, 28, 28)
            return self.body(images)

    found = exports(Groups())
    train, evaluation = found.train.module(), found.evaluation.module()
    assert not accepts(train, TRIED)
    wanted = ComputeMode(channels_last=True)
    assert choose_compatible(wanted, train, evaluation, "here.py") == Choice(wanted)
    assert unrepeatable(wanted, train) == ()


def test_channels_last_weights_stay_the_same_parameters() -> None:
    network = exported(Plain())
    values = [parameter.clone() for parameter in network.parameters()]
    before = {name: id(parameter) for name, parameter in network.named_parameters()}
    accelerate(network, ComputeMode(channels_last=True))
    for layer in (network.first, network.second):
        assert layer.weight.stride() == torch.empty_like(layer.weight, memory_format=torch.channels_last).stride()
    assert {name: id(parameter) for name, parameter in network.named_parameters()} == before
    assert all(map(torch.equal, network.parameters(), values))


class Head(nn.Module):
    """A convolution, batch norm if requested, whatever `between` makes of its maps, and a linear layer."""

    def __init__(self, between: Callable[[Tensor], Tensor], norm: bool = False) -> None:
        super().__init__()
        self.convolution = nn.Sequential(nn.Conv2d(1, 5, 5, stride=8), *[nn.BatchNorm2d(5)] * norm)
        self.last = nn.Linear(45, 10)
        self.between = between

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.between(self.convolution(images)).flatten(1))


def viewed(maps: Tensor) -> Tensor:
    return F.relu(maps.view(maps.shape[0], -1), inplace=True)


def written_through_a_view(maps: Tensor) -> Tensor:
    maps.view(maps.shape[0], -1)[:, :7].mul_(3)
    return maps


def written_through_flatten(maps: Tensor) -> Tensor:
    maps.flatten(1).mul_(2)
    return maps


def strided(maps: Tensor) -> Tensor:
    return maps.as_strided((maps.shape[0], 45), (45, 1))


def scattered(maps: Tensor) -> Tensor:
    return torch.zeros_like(maps, dtype=torch.float32).index_add(1, torch.arange(5), maps)


def filtered_by_itself(maps: Tensor) -> Tensor:
    count = maps.shape[0]
    weight = maps.mean((2, 3)).view(count * 5, 1, 1, 1)
    return F.conv2d(maps.reshape(1, count * 5, 3, 3), weight, groups=count * 5).reshape(count, 5, 3, 3)


FAST = ComputeMode("bfloat16", True, True)


@pytest.mark.parametrize(
    ("between", "expected"),
    [
        (viewed, FAST),
        (filtered_by_itself, FAST),
        (scattered, ComputeMode("float32", True)),
        (written_through_a_view, ComputeMode("bfloat16")),
        (written_through_flatten, ComputeMode("bfloat16")),
        (strided, ComputeMode("bfloat16")),
    ],
)
@pytest.mark.parametrize("execution", ["eager", "compiled"])
def test_chosen_mode_keeps_network_function(
    between: Callable[[Tensor], Tensor], expected: ComputeMode, execution: Execution
) -> None:
    found = exports(Head(between))
    wanted = replace(FAST, execution=execution)
    state = torch.get_rng_state()
    chosen = choose_compatible(wanted, found.train.module(), found.evaluation.module(), "network.py")
    assert chosen.mode == replace(expected, execution=execution)
    assert torch.equal(torch.get_rng_state(), state)


def takes_float32_alone(maps: Tensor) -> Tensor:
    bits = maps.detach().float().view(torch.int32).view(maps.shape)
    maps.flatten(1).mul_(2)
    return maps + bits.bitwise_and(1)


def line_of_between() -> str:
    """Return where torch has seen the operators of `between`: in the forward that calls it."""
    lines, first = inspect.getsourcelines(Head.forward)
    return f"{__file__}:{first + next(place for place, line in enumerate(lines) if 'self.between' in line)}"


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (scattered, "index_add fails in bfloat16"),
        (written_through_a_view, "mul_ gives different results with channels last"),
        (written_through_flatten, "mul_ gives different results with channels last"),
        (strided, "as_strided gives different results with channels last"),
    ],
)
@pytest.mark.parametrize("norm", [True, False])
def test_reason_names_operator_and_line(between: Callable[[Tensor], Tensor], reason: str, norm: bool) -> None:
    found = exports(Head(between, norm), __file__)
    chosen = choose_compatible(FAST, found.train.module(), found.evaluation.module(), __file__)
    assert chosen.because.startswith(f"{reason} ({line_of_between()})")
    assert "float64" not in chosen.because


def test_reason_found_in_float32_is_marked() -> None:
    found = exports(Head(takes_float32_alone), __file__)
    chosen = choose_compatible(
        ComputeMode(channels_last=True), found.train.module(), found.evaluation.module(), __file__
    )
    assert chosen.because == (
        f"mul_ gives different results with channels last ({line_of_between()}) (compared in float32: "
        f"reshape fails in float64 ({line_of_between()}))"
    )


def test_differing_gradient_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = exports(Head(F.relu))
    step = _step

    def turned(graph: GraphModule, learns: bool, used: ComputeMode, images: Tensor) -> dict[str, Tensor]:
        made = step(graph, learns, used, images)
        return {**made, "gradients": -made["gradients"]} if used.channels_last else made

    monkeypatch.setattr("harness.training.compatible._step", turned)
    chosen = choose_compatible(FAST, found.train.module(), found.evaluation.module(), "network.py")
    assert chosen == Choice(ComputeMode("bfloat16"), "the network gives different gradients with channels last")


def test_out_of_memory_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = exports(Head(F.relu))
    monkeypatch.setattr("harness.training.compatible.accelerate", lambda *_: torch.zeros(2**48))
    with pytest.raises(RuntimeError, match="memory"):
        choose_compatible(FAST, found.train.module(), found.evaluation.module(), "network.py")


def test_zero_classifier_hides_no_difference() -> None:
    network = Head(written_through_a_view)
    nn.init.zeros_(network.last.weight)
    nn.init.zeros_(network.last.bias)
    found = exports(network)
    chosen = choose_compatible(FAST, found.train.module(), found.evaluation.module(), "network.py")
    assert chosen.mode == ComputeMode("bfloat16")


def test_dropout_masks_are_no_difference() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 14, 9, stride=9), nn.BatchNorm2d(14), nn.Dropout2d(0.5), nn.Flatten(), nn.Linear(126, 10)
    )
    found = exports(network)
    assert choose_compatible(FAST, found.train.module(), found.evaluation.module(), "network.py") == Choice(FAST)


class Spectral(nn.Module):
    """Multiplies the spectrum of the images by complex weights, and keeps a complex buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.full((28, 15), 0.5 + 0.5j))
        self.register_buffer("turn", torch.full((28, 15), 1j))
        self.last = nn.Conv2d(1, 10, 28)

    def forward(self, images: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(images) * self.filter * self.get_buffer("turn")
        return self.last(torch.fft.irfft2(spectrum.to(torch.complex64), s=(28, 28))).flatten(1)


@pytest.fixture
def always_warns() -> Iterator[None]:
    """Lets torch repeat the warnings that it gives once in a process."""
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(False)


@pytest.mark.parametrize("precision", [torch.float64, torch.float32])
@pytest.mark.usefixtures("always_warns")
@pytest.mark.filterwarnings("error:Casting complex values")
def test_complex_weights_keep_their_imaginary_part_in_a_trial(precision: torch.dtype) -> None:
    network = Spectral()
    found = _step(exported(network), True, REFERENCE, IMAGES.to(precision))
    network(IMAGES).square().sum().backward()
    gradients = torch.cat(
        [parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None]
    )
    assert gradients.imag.any()
    assert torch.allclose(found["gradients"].to(torch.complex64), gradients, rtol=1e-3, atol=1e-2)
    assert found["statistics"].eq(1j).all()
    assert found["outputs"].dtype == precision


@pytest.mark.usefixtures("always_warns")
@pytest.mark.filterwarnings("error:Mismatch dtype")
def test_trial_gives_no_warning_of_a_slower_kernel() -> None:
    found = exports(
        nn.Sequential(nn.Conv2d(1, 4, 9), nn.Flatten(), nn.Linear(1_600, 16), nn.RMSNorm(16), nn.Linear(16, 10))
    )
    assert choose_compatible(FAST, found.train.module(), found.evaluation.module(), "network.py") == Choice(FAST)


def test_incompatible_network_uses_reference_mode() -> None:
    found = exports(Head(viewed))

    def broken(network: nn.Module, used: ComputeMode) -> Callable[[Tensor], Tensor]:
        if used == REFERENCE:
            return accelerate(network, used)
        raise RuntimeError("out of chalk")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("harness.training.compatible.accelerate", broken)
        chosen = choose_compatible(FAST, found.train.module(), found.evaluation.module(), "network.py")
    assert chosen.mode == REFERENCE
    assert "out of chalk" in chosen.because


def test_compatibility_check_leaves_network_unchanged() -> None:
    found = exports(Residual())
    train, evaluation = found.train.module(), found.evaluation.module()
    before = {name: tensor.clone() for name, tensor in train.state_dict().items()}
    choose_compatible(FAST, train, evaluation, "network.py")
    assert all(torch.equal(tensor, before[name]) for name, tensor in train.state_dict().items())
    assert all(parameter.grad is None for parameter in train.parameters())


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
def test_padding_changes_no_result(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network = make()
    reference, padded = exported(network), exported(copy.deepcopy(network))
    arranged = accelerate(padded, PADDED)
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
            if target in (torch.ops.aten.conv2d.default, torch.ops.aten.conv2d.padding, convolve_one_channel):
                made.append(result.shape[1])
            return result

    Seen(network).run(IMAGES)
    return made


@pytest.mark.parametrize(
    ("make", "expected"), [(Residual, [16, 16, 16]), (Separable, [32, 32, 30, 16]), (Bare, [16, 10])]
)
def test_channels_are_padded_to_whole_vectors(make: Callable[[], nn.Module], expected: list[int]) -> None:
    network = exported(make())
    accelerate(network, PADDED)
    assert widths(network) == expected


@given(inputs=st.integers(1, 40), outputs=st.integers(1, 40))
@settings(max_examples=12)
def test_padding_adds_at_most_one_third(inputs: int, outputs: int) -> None:
    network = exported(
        nn.Sequential(
            nn.Conv2d(1, inputs, 9, stride=9), nn.Conv2d(inputs, outputs, 3), nn.Flatten(), nn.Linear(outputs, 10)
        )
    )
    before = network(IMAGES)
    assert torch.allclose(accelerate(network, PADDED)(IMAGES), before, atol=1e-5)
    for real, made in zip((inputs, outputs), widths(network), strict=True):
        assert made == real or (made % VECTOR == 0 and real < made <= 4 / 3 * real)


def test_float32_channels_are_not_padded() -> None:
    network = exported(Residual())
    accelerate(network, ComputeMode(channels_last=True))
    assert widths(network) == [14, 14, 14]


@pytest.mark.parametrize(
    "settings", [{}, {"padding": "same"}, {"padding": "valid", "dilation": 2}, {"padding": 2, "stride": 3}]
)
@pytest.mark.parametrize("biased", [True, False])
def test_one_channel_convolution_matches_torch(settings: dict[str, Any], biased: bool) -> None:
    torch.manual_seed(0)
    network = exported(nn.Sequential(nn.Conv2d(1, 6, 5, bias=biased, **settings), nn.AdaptiveAvgPool2d((2, 5)), Sums()))
    plain = copy.deepcopy(network)
    accelerate(network, PADDED)
    assert convolve_one_channel in [node.target for node in network.graph.nodes]
    for each in (network, plain):
        each(IMAGES).square().sum().backward()
    assert torch.allclose(network(IMAGES), plain(IMAGES), atol=1e-5)
    for ours, torchs in zip(network.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours.grad, torchs.grad, rtol=1e-4, atol=1e-4)


def test_asymmetric_padding_is_left_to_torch() -> None:
    network = exported(nn.Sequential(nn.Conv2d(1, 6, 4, padding="same"), nn.AdaptiveAvgPool2d((2, 5)), Sums()))
    before = network(IMAGES)
    assert torch.allclose(accelerate(network, PADDED)(IMAGES), before, atol=1e-5)
    assert convolve_one_channel not in [node.target for node in network.graph.nodes]


# --- kernels ----------------------------------------------------------------------------------------------


class Computed(nn.Module):
    """Scale and offset of its batch norm come from layers: bfloat16, where autocast computes so."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 12, 5, stride=4)
        self.scale, self.offset = nn.Linear(4, 12), nn.Linear(4, 12)
        self.latent = nn.Parameter(torch.randn(4))
        self.last = nn.Linear(12, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps, scale, offset = self.convolution(images), self.scale(self.latent), self.offset(self.latent)
        maps = F.batch_norm(maps, None, None, scale, offset, True) if self.training else maps
        return self.last(F.relu(maps).mean((2, 3)))


class WritesThroughAView(nn.Module):
    """What it writes to is seen only if pooled maps lie as torch lays them."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(4, 16, 3)
        self.last = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.max_pool2d(F.pixel_unshuffle(images, 2), 2)
        maps.flatten(1)[:, ::2] *= 2.0
        return self.last(F.relu(self.convolution(maps)).mean((2, 3)))


class WritesOnItsOwnNumbers(nn.Module):
    """A silu of numbers alone, which are the same for all images, and written to for each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = nn.Parameter(torch.randn(1, 3, 6, 6))
        self.convolution = nn.Conv2d(3, 10, 3)
        self.last = nn.Linear(784, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.silu(self.convolution(self.numbers))
        maps += 0.5
        return self.last(images.flatten(1)) * maps.mean((2, 3))


COMPILED = ComputeMode(channels_last=True, execution="compiled")


@needs_compiler
@pytest.mark.parametrize("make", [Computed, WritesThroughAView, WritesOnItsOwnNumbers])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_kernels_train_like_torch(
    make: Callable[[], nn.Module], precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    torch.manual_seed(0)
    network, plain = (exported(made) for made in copy.deepcopy([make()] * 2))
    accelerate(network, COMPILED)
    near = {"rtol": 1e-4, "atol": 1e-5} if precision == "float32" else {"rtol": 0.1, "atol": 0.1}
    for _ in range(3):
        learned = []
        for each in (network, plain):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                answers = each(IMAGES).float()
            answers.square().mean().backward()
            learned.append([answers.detach(), *(parameter.grad for parameter in each.parameters())])
            each.zero_grad()
        for ours, torchs in zip(*learned, strict=True):
            assert (ours is None and torchs is None) or torch.allclose(ours, torchs, **near)


@needs_compiler
@pytest.mark.parametrize("make", [WritesThroughAView, WritesOnItsOwnNumbers])
def test_kernels_score_like_torch(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    found = exports(make()).evaluation
    scored = accelerate_scoring(found.module(), COMPILED)
    scored.refresh()
    for _ in range(3):
        assert torch.allclose(scored(IMAGES), found.module()(IMAGES), atol=1e-5)


@needs_compiler
def test_single_value_statistics_are_nan_like_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    one = nn.Sequential(nn.Conv2d(1, 10, 28), nn.BatchNorm2d(10), nn.Flatten())
    network = exported(one)
    accelerate(network, COMPILED)
    assert network(IMAGES[:1]).isfinite().all()
    assert network.get_buffer("1.running_var").isnan().all()


@needs_compiler
@pytest.mark.parametrize(
    ("channels", "norm_first", "expected"),
    [(32, True, 1), (32, False, 0), (20, True, 1), (20, False, 1)],
)
def test_kernel_choice_follows_activation_and_width(
    channels: int, norm_first: bool, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    calls: list[int] = []
    kernel = normalise

    def noted(*given: Any) -> tuple[Tensor, Tensor, Tensor]:
        calls.append(given[-1])
        return kernel(*given)

    monkeypatch.setattr("harness.training.batch_norm.normalise", noted)
    between = [nn.BatchNorm2d(channels), nn.ReLU()][:: 1 if norm_first else -1]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))
    network, plain = (exported(nn.Sequential(nn.Conv2d(1, channels, 5, stride=4), *between, *head)) for _ in range(2))
    plain.load_state_dict(network.state_dict())
    accelerate(network, COMPILED)
    assert torch.allclose(network(IMAGES), plain(IMAGES), atol=1e-4)
    assert len(calls) == expected


class Sums(nn.Module):
    """Makes ten numbers of (N, C, 2, 5) maps."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.sum(1).flatten(1)


# --- batch norm -------------------------------------------------------------------------------------------


Norm = Callable[..., Tensor]


def norm_of_torch(
    maps: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, momentum: float, eps: float
) -> Tensor:
    return F.batch_norm(maps, mean, var, weight, bias, True, momentum, eps)


def passed(
    norm: Norm, maps: Tensor, slope: Tensor, affine: bool = True, tracks: bool = True, momentum: float = 0.1
) -> dict[str, Tensor]:
    """Return what a pass forth and back gives: results, gradients and statistics."""
    inputs, channels = maps.detach().requires_grad_(), maps.shape[1]
    kind = torch.promote_types(maps.dtype, torch.float32)
    learned = [torch.linspace(*ends, channels, dtype=kind).requires_grad_() for ends in ((0.5, 2), (-1, 1))]
    running = [torch.zeros(channels, dtype=kind), torch.ones(channels, dtype=kind)]
    result = norm(
        inputs, *(learned if affine else (None, None)), *(running if tracks else (None, None)), momentum, 1e-5
    )
    result.backward(slope)
    found = {"results": result.detach(), "gradient of maps": inputs.grad}
    if affine:
        found |= {"gradient of weight": learned[0].grad, "gradient of bias": learned[1].grad}
    if tracks:
        found |= {"mean": running[0], "variance": running[1]}
    return found


def apart(found: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    """Return how far each kind of number is off, against the largest of its kind, or 1 where all are smaller."""
    assert found.keys() == exact.keys()
    return {
        kind: float((found[kind].double() - tensor).abs().max() / tensor.abs().max().clamp_min(1.0))
        for kind, tensor in exact.items()
    }


def last(maps: Tensor) -> Tensor:
    return maps.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("ours", [batch_norm, batch_norm_in_sums])
@given(
    shape=st.tuples(st.integers(4, 40), st.integers(1, 40), st.integers(2, 9), st.integers(2, 9)),
    offset=st.floats(-10, 10),
    lies_last=st.booleans(),
    affine=st.booleans(),
    tracks=st.booleans(),
    momentum=st.floats(0.1, 1),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60)
def test_batch_norm_is_as_exact_as_torch(
    ours: Norm,
    shape: tuple[int, int, int, int],
    offset: float,
    lies_last: bool,
    affine: bool,
    tracks: bool,
    momentum: float,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    maps, slope = torch.randn(shape) + offset, torch.randn(shape)
    settings = (affine, tracks, momentum)
    exact = passed(norm_of_torch, maps.double(), slope.double(), *settings)
    plain = apart(passed(norm_of_torch, maps, slope, *settings), exact)
    off = apart(passed(ours, last(maps) if lies_last else maps, slope, *settings), exact)
    for kind in exact:
        assert off[kind] < max(1e-5, 3 * plain[kind]), kind


LONG = (512, 12, 24, 24)
"""As many numbers a channel as a step of s6_gap has."""


@pytest.mark.parametrize("offset", [0.0, 1.0, 10.0])
def test_long_sums_are_as_exact_as_torch(offset: float) -> None:
    torch.manual_seed(0)
    maps, slope = last(torch.randn(LONG) + offset), last(torch.randn(LONG))
    exact = passed(norm_of_torch, maps.double().contiguous(), slope.double().contiguous())
    for ours in (batch_norm, batch_norm_in_sums):
        assert max(apart(passed(ours, maps, slope), exact).values()) < 1e-5


@pytest.mark.parametrize("offset", [0.0, 10.0])
def test_bfloat16_maps_are_summed_in_float32(offset: float) -> None:
    torch.manual_seed(0)
    maps, slope = last(torch.randn(LONG) + offset).bfloat16(), last(torch.randn(LONG)).bfloat16()
    exact = passed(norm_of_torch, maps.double().contiguous(), slope.double().contiguous())
    for ours in (batch_norm, batch_norm_in_sums):
        off = apart(passed(ours, maps, slope), exact)
        assert max(off["mean"], off["variance"]) < 1e-5
        assert max(off["gradient of weight"], off["gradient of bias"]) < 1e-4
        assert max(off["results"], off["gradient of maps"]) < 2**-7  # of their own rounding


def test_float64_batch_norm_stays_float64() -> None:
    torch.manual_seed(0)
    maps, slope = (torch.randn(5, 3, 4, 4, dtype=torch.float64) for _ in range(2))
    found, exact = passed(batch_norm, last(maps), slope), passed(norm_of_torch, maps, slope)
    assert max(apart(found, exact).values()) < 1e-12


@pytest.mark.parametrize("used", [ComputeMode(channels_last=True), PADDED])
def test_eager_channels_last_batch_norm_is_replaced(used: ComputeMode) -> None:
    network = exported(Bare())
    accelerate(network, used)
    targets = [node.target for node in network.graph.nodes]
    assert batch_norm in targets
    assert torch.ops.aten.batch_norm.default not in targets
    plain = exported(Bare())
    accelerate(plain, REFERENCE)
    assert batch_norm not in [node.target for node in plain.graph.nodes]


def test_consecutive_batch_norms_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    twice = nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=4), nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10)
    )
    network = train_graph(twice)
    images = torch.rand(5, 1, 28, 28)
    before = network(images)
    assert torch.allclose(accelerate(network, ComputeMode(execution="compiled"))(images), before, atol=1e-4)


# --- what repeats -----------------------------------------------------------------------------------------


class Puts(nn.Module):
    """Writes numbers to places that may be the same: on any device torch has no order for that."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)

    def forward(self, images: Tensor) -> Tensor:
        answers = self.head(images.flatten(1))
        places = torch.arange(images.shape[0], device=images.device) * 10
        return answers.put(places, answers.select(1, 0))


def test_nondeterministic_operators_are_named() -> None:
    compute.repeat_bits(True)
    try:
        for network, expected in ((Puts(), ("put_",)), (Plain(), ())):
            assert unrepeatable(REFERENCE, exported(network)) == expected
    finally:
        compute.repeat_bits(False)
