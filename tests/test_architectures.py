"""Every file in architectures/ keeps the contract; the five references are what their table says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness import plugins
from harness.audit import Ledger, enforce
from harness.plugins import Executed
from harness.runs import inspect
from harness.spec import BUDGET, Knob, Recipe

FOLDER = Path(__file__).parent.parent / "architectures"
FILES = sorted(FOLDER.glob("*.py"))

PUBLISHED = {
    "s6_gap": Recipe(
        batch_size=512,
        lr=0.05,
        schedule="step",
        step_epochs=10,
        step_gamma=0.1,
        rotation=15.0,
        zoom_p=0.1,
        zoom_crop=22,
    ),
    "conv_transition": Recipe(batch_size=64),
    "gap_dropout": Recipe(batch_size=128),
    "wide_stem": Recipe(batch_size=64),
    "slim": Recipe(batch_size=128),
}
"""The published recipes; all of them are SGD with momentum 0.9, at learning rate 0.01 where none is given."""

PARAMETERS = {
    "conv_transition": 12_234,
    "depthwise_head": 19_606,
    "gap_dropout": 16_858,
    "p4m_convolution": 997,
    "s6_gap": 19_698,
    "slim": 15_738,
    "wide_stem": 19_898,
}
DROPOUT = {"s6_gap": 0.0, "conv_transition": 0.1, "gap_dropout": 0.1, "wide_stem": 0.25, "slim": 0.05}


SIZES = {
    ("p4m_convolution", "2,2,2,2,2,2", 1): 1_782,
    ("p4m_convolution", "3,3,3,3,4,4", 1): 4_601,
    ("depthwise_head", "4,5,5,6,6,7", None): 1_980,
    ("depthwise_head", "6,8,8,10,10,12", None): 4_708,
    ("depthwise_head", "8,12,12,16,16,16", None): 9_842,
}
"""Counted numbers of the networks of the records, by file, channels and filters over the places."""


def reference(name: str) -> Executed:
    return plugins.execute((FOLDER / f"{name}.py").read_text(), f"{name}.py")


def ledger(file: Path, **turned: Knob) -> Ledger:
    architecture = plugins.load(file)
    found = inspect(architecture, {**architecture.knobs, **turned}).audit.ledger
    enforce(found, architecture.recipe, BUDGET)
    return found


def test_published_architectures_exist() -> None:
    assert {file.stem for file in FILES} >= {*PUBLISHED, *PARAMETERS}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_architecture_passes_audit_within_budget(file: Path) -> None:
    found = ledger(file).parameters
    assert 0 < found <= BUDGET.parameters
    assert found == PARAMETERS.get(file.stem, found)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_architecture_has_one_line_summary(file: Path) -> None:
    assert 10 < len(plugins.load(file).summary) <= 120


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipe_equals_published_recipe(name: str) -> None:
    assert reference(name).recipe == PUBLISHED[name]


def test_references_share_the_default_recipe() -> None:
    shared = Recipe()
    assert (shared.optimizer, shared.lr, shared.momentum, shared.epochs) == ("sgd", 0.01, 0.9, 19)
    assert (shared.schedule, shared.weight_decay, shared.augments) == ("constant", 0.0, False)


@pytest.mark.parametrize("name", PUBLISHED)
def test_knobs_are_width_and_published_dropout(name: str) -> None:
    knobs = reference(name).knobs
    assert set(knobs) == {"width", "dropout"}
    assert knobs["dropout"] == DROPOUT[name]


@pytest.mark.thorough
@pytest.mark.parametrize("name", PUBLISHED)
def test_half_width_quarters_the_parameters(name: str) -> None:
    width = reference(name).knobs["width"]
    assert isinstance(width, int)
    half = ledger(FOLDER / f"{name}.py", width=width // 2)
    assert 0.2 < half.parameters / PARAMETERS[name] < 0.4


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_grow_with_width(name: str) -> None:
    architecture = reference(name)
    counts = []
    for width in range(4, 41):
        network = plugins.build_network(architecture, {**architecture.knobs, "width": width})
        counts.append(sum(parameter.numel() for parameter in network.parameters()))
    assert counts == sorted(set(counts))


@pytest.mark.parametrize("name", PUBLISHED)
def test_dropout_knob_sets_every_dropout_layer(name: str) -> None:
    architecture = reference(name)
    network = plugins.build_network(architecture, {**architecture.knobs, "dropout": 0.3})
    rates = [module.p for module in network.modules() if isinstance(module, torch.nn.modules.dropout._DropoutNd)]
    published = [rate for rate in rates if rate]  # s6_gap keeps its last block free of it
    assert published
    assert set(published) == {0.3}


def test_slim_averages_only_the_top_left_corner() -> None:
    network = plugins.build_network(reference("slim"), reference("slim").knobs).eval()
    maps = torch.zeros(1, 32, 3, 3)
    head = torch.nn.Sequential(*list(network.children())[-3:])  # convolution to ten maps, average, flatten
    with torch.no_grad():
        before = head(maps)
        maps[:, :, 2, :] = 9.0
        maps[:, :, :, 2] = 9.0
        assert torch.equal(head(maps), before)


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "channels", "filters"), SIZES)
def test_audit_counts_recorded_parameters(name: str, channels: str, filters: int | None) -> None:
    knobs: dict[str, Knob] = {"channels": channels} if filters is None else {"channels": channels, "filters": filters}
    assert ledger(FOLDER / f"{name}.py", **knobs).parameters == SIZES[name, channels, filters]


@pytest.mark.parametrize("filters", [1, 2])
@pytest.mark.parametrize(
    ("move", "poses"),
    [
        pytest.param(lambda images: images.rot90(1, (2, 3)), [3, 0, 1, 2, 5, 6, 7, 4], id="a quarter turn"),
        pytest.param(lambda images: images.flip(3), [4, 5, 6, 7, 0, 1, 2, 3], id="a mirror image"),
    ],
)
def test_p4m_features_are_equivariant(move: Callable[[Tensor], Tensor], poses: list[int], filters: int) -> None:
    torch.manual_seed(0)
    network = reference("p4m_convolution").build(channels="1,2,2,2,3,3", filters=filters, shifts=False).eval()
    for name, parameter in network.named_parameters():
        if name.startswith("norms"):
            torch.nn.init.uniform_(parameter, 0.5, 1.5)  # each channel its own scale and offset
    seen: list[Tensor] = []
    network.head[0].register_forward_hook(lambda _module, _inputs, features: seen.append(features.view(4, 8, -1)))
    images = torch.randn(4, 1, 28, 28)
    with torch.no_grad():
        network(images)
        network(move(images))
    torch.testing.assert_close(seen[1], seen[0][:, poses])
    assert not torch.allclose(seen[1], seen[0])
