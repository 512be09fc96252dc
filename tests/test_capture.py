"""A step for a CUDA graph has the bits of an ordinary one; tests/gpu looks at what is in it on a GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from audited import ARCHITECTURES, exported_file, sizes, train_graph
from test_training import DATASET, epochs_of, numbers, same_bits
from torch import Tensor, nn

from harness import training
from harness.audit import over_the_same_tensors
from harness.spec import ComputeMode, Execution, Precision
from harness.training import Average, fit
from harness.training.capture import Lean

CAPTURED = ComputeMode("bfloat16", channels_last=True, execution="captured")


@pytest.fixture
def uncaptured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the steps that would be captured one by one: there is no GPU."""
    monkeypatch.setattr(training.Steps, "_capture", lambda _: None)


# --- the same bits ----------------------------------------------------------------------------------------


@sizes
@pytest.mark.parametrize("file", ARCHITECTURES, ids=lambda file: file.stem)
@pytest.mark.usefixtures("uncaptured")
def test_capturable_step_matches_eager_bits(file: Path, size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.training.steps.AUGMENTED_TOGETHER", 25)  # of 70 images, so in three parts
    architecture, network, found = exported_file(file, size)
    recipe = replace(architecture.recipe, epochs=2, batch_size=32, warmup_epochs=0.0, ema=0.9, augment_fade=1)
    precisions: tuple[Precision, ...] = ("bfloat16", "float32")
    executions: tuple[Execution, ...] = ("eager", "captured")
    for precision in precisions:
        trained = []
        for execution in executions:
            graph = found.graphs(network, torch.device("cpu")).train
            average = Average(graph, recipe.ema)
            used = replace(CAPTURED, precision=precision, execution=execution)
            seen = epochs_of(fit(over_the_same_tensors(graph), DATASET, recipe, 0, used, average))
            trained.append((graph, average.state, numbers(seen)))
        (eager, eager_average, eager_epochs), (lean, lean_average, lean_epochs) = trained
        assert lean_epochs == eager_epochs
        assert same_bits(lean, eager)
        assert same_bits(lean_average, eager_average)


def exported(network: nn.Module) -> Any:
    return train_graph(network)


def names_rounded(network: nn.Module) -> set[str]:
    graph = exported(network)
    lean, by_memory = Lean(graph, rounds=True), {id(tensor): name for name, tensor in graph.named_parameters()}
    return {by_memory[id(weight)] for weight in lean._weights}


class Twice(nn.Module):
    """A convolution used twice, one whose weight is scaled, and one that is neither."""

    def __init__(self) -> None:
        super().__init__()
        self.once, self.twice, self.scaled = nn.Conv2d(1, 2, 9), nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3)
        self.norm, self.head = nn.BatchNorm2d(2), nn.Linear(2 * 14 * 14, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.twice(self.twice(self.once(images)))
        maps = nn.functional.conv2d(maps, self.scaled.weight * 2, self.scaled.bias)
        return self.head(self.norm(maps).flatten(1))


def test_single_use_weights_are_rounded_together() -> None:
    assert names_rounded(Twice()) == {"once.weight", "once.bias", "scaled.bias", "head.weight", "head.bias"}


def test_reused_batch_norm_counts_both_batches() -> None:
    norm = nn.BatchNorm2d(1)
    graph = exported(nn.Sequential(norm, norm, nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(784, 10)))
    lean = Lean(graph, rounds=False)
    for _ in range(3):
        lean(torch.rand(4, 1, 28, 28))
    counted = {name: int(buffer) for name, buffer in graph.named_buffers() if "tracked" in name}
    assert counted == {"0.num_batches_tracked": 6, "2.num_batches_tracked": 3}
    assert "add_" not in str(lean._network.graph)


def test_graph_keeps_its_counters_and_weights() -> None:
    graph = exported(nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(784, 10)))
    code = graph.code
    Lean(graph, rounds=True)
    assert graph.code == code
    assert all(parameter.dtype == torch.float32 for parameter in graph.parameters())
