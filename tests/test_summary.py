from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from audited import exports
from torch import Tensor, nn
from torch.nn import functional as F

from harness import plugins
from harness.audit import Audit, ModelSummary, describe
from harness.audit.count import count

ARCHITECTURES = Path(__file__).parent.parent / "architectures"


def counted(network: nn.Module) -> Audit:
    found = exports(network)
    return replace(found, ledger=count(network, found.train, found.evaluation, "network.py"))


def summary_of(network: nn.Module) -> ModelSummary:
    return describe(network, counted(network))


@pytest.fixture(scope="module")
def references() -> Mapping[str, ModelSummary]:
    """The anatomy of every file in architectures/, at its default knobs."""
    found = {}
    for name in REFERENCES:
        architecture = plugins.execute((ARCHITECTURES / f"{name}.py").read_text(), f"{name}.py")
        found[name] = summary_of(plugins.build_network(architecture, {}))
    return found


# Worked out by hand from the layer lists. A 3x3 convolution widens the receptive field by twice the
# distance between neighbours, a 2x2 pooling by once that distance, which it doubles.
RECEPTIVE_FIELDS = {
    "s6_gap": 1 + 3 * 2 + 0 + 3 * 4,  # three convolutions, the strided 1x1, three more at distance 2
    "conv_transition": 1 + 3 * 2 + 1 + 2 * 4 + 2,  # ..., AvgPool, two more, AvgPool
    "gap_dropout": 1 + 3 * 2 + 1 + 4 * 4,
    "wide_stem": 1 + 4 + 2 + 1 + 2 * 4 + 2,  # the stem is 5x5
    "slim": 1 + 3 * 2 + 1 + 4 * 4,
}

# (side of the result, side of the kernel, channels in, channels out), and the linear layer last.
PRODUCTS = {
    "s6_gap": [
        (26, 3, 1, 16),
        (24, 3, 16, 16),
        (22, 3, 16, 30),
        (11, 1, 30, 30),
        (9, 3, 30, 16),
        (7, 3, 16, 16),
        (5, 3, 16, 32),
        (1, 1, 32, 10),
    ],
    "conv_transition": [
        (26, 3, 1, 6),
        (24, 3, 6, 12),
        (22, 3, 12, 24),
        (22, 1, 24, 12),
        (9, 3, 12, 16),
        (7, 3, 16, 32),
        (7, 1, 32, 16),
        (1, 1, 144, 10),
    ],
    "gap_dropout": [
        (26, 3, 1, 16),
        (24, 3, 16, 16),
        (22, 3, 16, 16),
        (9, 3, 16, 16),
        (7, 3, 16, 16),
        (5, 3, 16, 16),
        (3, 3, 16, 32),
        (1, 1, 32, 10),
    ],
    "wide_stem": [(26, 5, 1, 32), (26, 3, 32, 16), (13, 3, 16, 32), (13, 3, 32, 32), (6, 1, 32, 10)],
    "slim": [
        (26, 3, 1, 8),
        (24, 3, 8, 16),
        (22, 3, 16, 16),
        (9, 3, 16, 16),
        (7, 3, 16, 16),
        (5, 3, 16, 16),
        (3, 3, 16, 32),
        (3, 1, 32, 10),
    ],
}
REFERENCES = tuple(PRODUCTS)

USES = {
    "s6_gap": {"batch norm", "fully connected", "global average pooling", "1x1 convolution"},
    "conv_transition": {"batch norm", "dropout", "fully connected", "1x1 convolution"},
    "gap_dropout": {"batch norm", "dropout", "fully connected", "global average pooling"},
    "wide_stem": {"batch norm", "dropout", "global average pooling", "1x1 convolution"},
    "slim": {"batch norm", "dropout", "1x1 convolution"},  # its pooling sees 2x2 of 3x3
}


@pytest.mark.parametrize("name", REFERENCES)
def test_receptive_field_matches_hand_computation(references: Mapping[str, ModelSummary], name: str) -> None:
    assert references[name].receptive_field == RECEPTIVE_FIELDS[name]


def test_s6_gap_receptive_field_is_19_pixels(references: Mapping[str, ModelSummary]) -> None:
    assert references["s6_gap"].receptive_field == 19


@pytest.mark.parametrize("name", REFERENCES)
def test_multiply_adds_match_hand_computation(references: Mapping[str, ModelSummary], name: str) -> None:
    by_hand = sum(side**2 * kernel**2 * inputs * outputs for side, kernel, inputs, outputs in PRODUCTS[name])
    assert references[name].multiply_adds == by_hand


@pytest.mark.parametrize("name", REFERENCES)
def test_parts_match_the_sources(references: Mapping[str, ModelSummary], name: str) -> None:
    assert {part for part, used in references[name].uses.items() if used} == USES[name]
    assert len(references[name].uses) == 5


@pytest.mark.parametrize("name", REFERENCES)
def test_layer_table_counts_every_parameter_once(references: Mapping[str, ModelSummary], name: str) -> None:
    counts = {"s6_gap": 19_698, "conv_transition": 12_234, "gap_dropout": 16_858, "wide_stem": 19_898, "slim": 15_738}
    assert sum(layer.parameters for layer in references[name].layers) == counts[name]


def test_layer_table_lists_layers_in_order(
    references: Mapping[str, ModelSummary],
) -> None:
    table = [(layer.kind, layer.output, layer.parameters) for layer in references["slim"].layers]
    assert table[:4] == [
        ("Conv2d", "(N, 8, 26, 26)", 80),
        ("ReLU", "(N, 8, 26, 26)", 0),
        ("BatchNorm2d", "(N, 8, 26, 26)", 16),
        ("Conv2d", "(N, 16, 24, 24)", 1_168),
    ]
    assert table[9] == ("MaxPool2d", "(N, 16, 11, 11)", 0)
    assert table[-3:] == [
        ("Conv2d", "(N, 10, 3, 3)", 330),
        ("AvgPool2d", "(N, 10, 1, 1)", 0),
        ("Flatten", "(N, 10)", 0),
    ]
    assert references["s6_gap"].layers[-1].name == "classifier"


class Token(nn.Module):
    """Puts a learned column of pixels before the images: torch adds an operator for the number of images."""

    def __init__(self) -> None:
        super().__init__()
        self.column = nn.Parameter(torch.zeros(1, 28, 1))
        self.head = nn.Linear(28 * 29, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.cat([self.column.expand(images.shape[0], -1, -1), images.squeeze(1)], 2).flatten(1))


def test_layer_table_lists_no_operator_of_torchs_own() -> None:
    rows = [(layer.name, layer.kind, layer.output, layer.parameters) for layer in summary_of(Token()).layers]
    assert rows == [("head", "Linear", "(N, 10)", 8_130), ("(network)", "Token", "(N, 10)", 28)]


class Fused(nn.Module):
    """Calls a 1x1 convolution and batch norm in training, and computes both as one 3x3 convolution when scored."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.norm = nn.Conv2d(1, 10, 1, bias=False), nn.BatchNorm2d(10)

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            return self.norm(self.narrow(images))
        mean, variance = (self.norm.get_buffer(f"running_{name}") for name in ("mean", "var"))
        scale = self.norm.weight / (variance + self.norm.eps).sqrt()
        weight = F.pad(self.narrow.weight * scale.reshape(-1, 1, 1, 1), [1] * 4)
        return F.conv2d(images, weight, self.norm.bias - mean * scale, padding=1)


class Turned(nn.Module):
    """Turns each pixel by a complex number, and has two layers of one weight, of which the first is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.ones(28, dtype=torch.complex64))
        self.first, self.second = nn.Linear(28, 28), nn.Linear(28, 28)
        self.second.weight = self.first.weight
        self.register_buffer("shift", torch.randn(28))

    def forward(self, images: Tensor) -> Tensor:
        rows = (images.squeeze(1) * self.turn).real + self.get_buffer("shift")
        return self.second(F.linear(rows, self.first.weight, self.first.bias)).mean(1)[:, :10]


def test_layer_shows_parameters_of_parts_that_only_training_calls() -> None:
    found = summary_of(nn.Sequential(Fused(), *head(10)))
    assert [(layer.kind, layer.parameters) for layer in found.layers] == [
        ("Fused", 10 + 20),
        ("AdaptiveAvgPool2d", 0),
        ("Flatten", 0),
        ("Linear", 110),
    ]
    assert found.uses["batch norm"]
    assert found.uses["1x1 convolution"]


def test_layer_table_and_further_lines_add_up_to_the_count() -> None:
    network = Turned()
    found = counted(network)
    rows = {layer.name: layer.parameters for layer in describe(network, found).layers}
    assert rows == {"second": 28, "(network)": 2 * 28 + 28 * 28 + 28}
    further = [entry for entry in found.ledger.entries if entry.kind != "parameter"]
    assert [(entry.layer, entry.name, entry.numbers) for entry in further] == [("(network)", "shift", 28)]
    assert sum(rows.values()) + 28 == found.ledger.parameters


# --- parts ------------------------------------------------------------------------------------------------


class Small(nn.Module):
    """A convolution, one of several poolings written as functions, and a 1x1 convolution."""

    def __init__(self, pooling: str) -> None:
        super().__init__()
        self.features = nn.Conv2d(1, 10, 9)  # 28 to 20
        self.pooling = pooling

    def forward(self, images: Tensor) -> Tensor:
        maps = self.features(images)
        if self.pooling == "mean":
            return maps.mean((2, 3))
        if self.pooling == "mean over negative axes":
            return maps.mean((-1, -2), keepdim=True).flatten(1)
        if self.pooling == "adaptive":
            return F.adaptive_avg_pool2d(maps, 1).flatten(1)
        if self.pooling == "whole window":
            return F.avg_pool2d(maps, 20).flatten(1)
        if self.pooling == "most of the window":
            return F.avg_pool2d(maps, 19).flatten(1)
        if self.pooling == "mean over one axis":
            return maps.mean(2).amax(2)
        return maps.amax((2, 3))


@pytest.mark.parametrize("pooling", ["mean", "mean over negative axes", "adaptive", "whole window"])
def test_global_average_pooling_is_recognised_in_any_form(pooling: str) -> None:
    assert summary_of(Small(pooling)).uses["global average pooling"]


@pytest.mark.parametrize("pooling", ["most of the window", "mean over one axis", "maximum"])
def test_partial_average_is_no_global_pooling(pooling: str) -> None:
    assert not summary_of(Small(pooling)).uses["global average pooling"]


def one_linear(*front: nn.Module) -> nn.Module:
    return nn.Sequential(*front, nn.Flatten(), nn.Linear(784, 10))


def test_linear_layer_is_only_fully_connected() -> None:
    found = summary_of(one_linear())
    assert [part for part, used in found.uses.items() if used] == ["fully connected"]
    assert found.multiply_adds == 7_840


@pytest.mark.parametrize(("rate", "used"), [(0.0, False), (0.3, True)])
@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout2d, nn.AlphaDropout])
def test_dropout_counts_above_rate_zero(kind: type[nn.Module], rate: float, used: bool) -> None:
    assert summary_of(one_linear(kind(rate))).uses["dropout"] is used


# --- reach ------------------------------------------------------------------------------------------------


class Branches(nn.Module):
    """A wide and a narrow path, added."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(1, 4, 7, padding=3)
        self.narrow = nn.Conv2d(1, 4, 1)
        self.head = nn.Conv2d(4, 10, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.narrow(images) + self.wide(images)).mean((2, 3))


def head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]


@pytest.mark.parametrize(
    ("layers", "field"),
    [
        ([nn.Conv2d(1, 4, 1)], 1),
        ([nn.Conv2d(1, 4, 5, padding="same")], 5),
        ([nn.Conv2d(1, 4, 3, dilation=4)], 9),
        ([nn.Conv2d(1, 4, 3, stride=2), nn.Conv2d(4, 4, 3, stride=2), nn.Conv2d(4, 4, 3)], 15),
        ([nn.Conv2d(1, 4, 3), nn.MaxPool2d(3, stride=1), nn.Conv2d(4, 4, 3)], 7),
        ([nn.Conv2d(1, 4, 3), nn.MaxPool2d(2, stride=1, dilation=3), nn.Conv2d(4, 4, 3)], 8),
        ([nn.Conv2d(1, 4, 3), nn.AvgPool2d(2), nn.Conv2d(4, 4, 3)], 8),
        ([nn.AdaptiveAvgPool2d(7), nn.Conv2d(1, 4, 1)], 4),
        ([nn.AdaptiveAvgPool2d(7), nn.Conv2d(1, 4, 3)], 12),
        ([nn.AdaptiveMaxPool2d(10), nn.Conv2d(1, 4, 1)], 4),  # 28 into 10: the second looks at 3 to 6
    ],
)
def test_receptive_field_follows_kernel_stride_and_dilation(layers: list[nn.Module], field: int) -> None:
    assert summary_of(nn.Sequential(*layers, *head(4))).receptive_field == field


def test_wider_of_two_paths_counts() -> None:
    assert summary_of(Branches()).receptive_field == 9


@pytest.mark.parametrize(
    ("last", "ends_so"), [(nn.Softmax(1), True), (nn.LogSoftmax(1), False), (nn.Identity(), False)]
)
def test_final_softmax_is_detected(last: nn.Module, ends_so: bool) -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), *head(4), last)
    assert summary_of(network).ends_in_softmax is ends_so


# --- what describing leaves behind ------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_summary_leaves_network_unchanged(training: bool) -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), *head(4))
    found = exports(network)
    network.train(training)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    describe(network, found)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(module.training is training for module in network.modules())
    assert not any(module._forward_hooks for module in network.modules())
