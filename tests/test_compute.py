"""The rule, what it reads off the machine, and each ingredient of the fast path against a plain float32 step."""

from __future__ import annotations

import copy
import functools
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from audited import exports, train_graph
from test_training import DATASET, RECIPE, epochs_of, same_bits
from torch import Tensor, nn
from torch.export import Dim
from torch.fx import GraphModule
from torch.nn import functional as F

from harness import training
from harness.audit import Audit
from harness.spec import REFERENCE, ComputeMode, Precision, Recipe
from harness.training import compute, fit, tensors_by_name
from harness.training.compute import WORTH_COMPILING, mode_by_rule, mode_for_this_machine
from harness.training.kernels import normalise
from harness.training.memory_layout import accelerate

# --- the rule ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "has_bfloat16", "has_compiler", "images", "expected"),
    [
        ("cpu", True, True, WORTH_COMPILING, ComputeMode("bfloat16", True, True, "compiled")),
        ("cpu", True, True, WORTH_COMPILING - 1, ComputeMode("bfloat16", True, True, "eager")),
        ("cpu", True, False, 10 * WORTH_COMPILING, ComputeMode("bfloat16", True, True, "eager")),
        ("cpu", False, True, WORTH_COMPILING, ComputeMode("float32", True, False, "compiled")),
        ("cpu", False, False, 1, ComputeMode("float32", True, False, "eager")),
        ("cuda", True, False, 1, ComputeMode("bfloat16", True, False, "captured")),
        ("cuda", False, True, 1, ComputeMode("float32", True, False, "captured")),
    ],
)
def test_mode_follows_device_and_size(
    device: str, has_bfloat16: bool, has_compiler: bool, images: int, expected: ComputeMode
) -> None:
    assert mode_by_rule(device, has_bfloat16, has_compiler, images) == expected


def test_mnist_run_is_compiled_but_digits_is_not() -> None:
    assert 1_437 * 19 < WORTH_COMPILING < 60_000 * 19


def test_short_run_skips_compiler_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "has_compiler", lambda: pytest.fail("asked"))
    assert mode_for_this_machine("cpu", 1).execution == "eager"


@pytest.mark.parametrize("present", [True, False])
def test_compiler_presence_decides_execution(present: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "has_compiler", lambda: present)
    assert mode_for_this_machine("cpu", WORTH_COMPILING).execution == ("compiled" if present else "eager")


@pytest.mark.parametrize(
    ("found", "expected"),
    [({"avx2": True}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True, "avx512_bf16": False}, True)],
)
def test_bfloat16_needs_processor_support(
    found: dict[str, bool], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert compute.has_bfloat16("cpu") is expected


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false", ""])
def test_broken_compiler_counts_as_missing(compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compute.has_compiler.cache_clear()
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setattr(compute.shutil, "which", lambda name: name if name == "false" else None)
    assert not compute.has_compiler()
    compute.has_compiler.cache_clear()


def test_compiler_without_python_headers_counts_as_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute.has_compiler.cache_clear()
    monkeypatch.setattr(compute.sysconfig, "get_path", lambda _: str(tmp_path))
    assert not compute.has_compiler()
    compute.has_compiler.cache_clear()


FAULTS = """
import resource, torch
from harness.training import compute
compute.set_deterministic("cpu")
def step():
    return [torch.ones(5_000_000) for _ in range(8)]
for _ in range(5):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc's malloc is told")
def test_memory_is_not_remapped_every_step() -> None:
    ran = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, check=True, text=True)
    all_of_it = 5 * 8 * 5_000_000 * 4 / resource.getpagesize()
    assert int(ran.stdout) < all_of_it / 2  # none, but for a heap in an unlucky place that may still grow


# --- each ingredient against a plain step -----------------------------------------------------------------


class Network(nn.Module):
    """Two convolutions with batch norm, a pooling layer between them and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 13, 5, stride=2)
        self.norm = nn.BatchNorm2d(13)
        self.second = nn.Conv2d(13, 10, 3)
        self.other = nn.BatchNorm2d(10)
        self.last = nn.Linear(10, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.max_pool2d(F.relu(self.norm(self.first(images))), 2)
        return self.last(F.relu(self.other(self.second(maps))).mean((2, 3)))


@functools.cache
def programs() -> Audit:
    return exports(Network())


def graph() -> GraphModule:
    audited = programs()  # before the seed: the first call builds a network
    torch.manual_seed(0)
    return audited.graphs(Network(), torch.device("cpu")).train


def after(used: ComputeMode, recipe: Recipe) -> dict[str, Tensor]:
    trained = graph()
    epochs_of(fit(trained, DATASET, recipe, 0, used))
    return trained.state_dict()


ONE_STEP = replace(RECIPE, epochs=1, batch_size=len(DATASET.train.labels), momentum=0.0, lr=0.1)


def distance(used: ComputeMode, recipe: Recipe = ONE_STEP) -> float:
    """Return how far training ends from a plain one, as a share of the way it went."""
    start, plain, other = graph().state_dict(), after(REFERENCE, recipe), after(used, recipe)
    names = [name for name, tensor in start.items() if tensor.is_floating_point()]
    off = torch.cat([(other[name] - plain[name]).flatten() for name in names])
    way = torch.cat([(plain[name] - start[name]).flatten() for name in names])
    return float(off.norm() / way.norm())


needs_compiler = pytest.mark.skipif(not compute.has_compiler(), reason="no C++ compiler with Python's headers")


def test_channels_last_step_matches_reference() -> None:
    assert distance(ComputeMode(channels_last=True)) < 1e-5


def test_padded_step_matches_reference() -> None:
    assert 0 < distance(ComputeMode(channels_last=True, padded=True)) < 1e-5


def test_bfloat16_step_approximates_reference() -> None:
    assert 0 < distance(ComputeMode("bfloat16")) < 0.02


@needs_compiler
def test_batch_norm_sums_step_matches_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    assert 0 < distance(ComputeMode(channels_last=True, execution="compiled")) < 1e-5


@needs_compiler
class TestCompiled:
    RECIPE = replace(RECIPE, epochs=2)

    @pytest.mark.thorough
    @pytest.mark.parametrize("padded", [False, True])
    def test_compiled_step_matches_reference(self, padded: bool) -> None:
        assert 0 < distance(ComputeMode(channels_last=True, padded=padded, execution="compiled")) < 1e-5

    def test_dropout_masks_match_eager_step(self) -> None:
        torch.manual_seed(0)
        network = train_graph(nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(784, 10)))
        compiled = accelerate(network, ComputeMode(execution="compiled"))
        images = torch.rand(4, 1, 28, 28)
        torch.manual_seed(1)
        eager = network(images)
        torch.manual_seed(1)
        assert torch.allclose(compiled(images), eager, atol=1e-5)

    @pytest.mark.thorough
    def test_cached_code_gives_the_same_bits(self) -> None:
        used = ComputeMode("bfloat16", True, True, "compiled")
        first = after(used, self.RECIPE)
        torch.compiler.reset()
        assert same_bits(after(used, self.RECIPE), first)

    def test_truncated_code_is_recompiled(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        torn = tmp_path / "code.main.so"
        torn.write_bytes(b"\x7fELF")

        def loaded(network: GraphModule, images: Tensor) -> Tensor:
            answers = network(images)  # what is compiled in parts has moved statistics before the torn part is loaded
            if torn.exists():
                raise RuntimeError(f"InductorError: ImportError: {torn}: file too short")
            return answers

        used = ComputeMode(execution="compiled")
        monkeypatch.setattr(torch, "compile", lambda network, **_: partial(loaded, network))
        again = after(used, self.RECIPE)
        assert not torn.exists()
        assert same_bits(after(used, self.RECIPE), again)

    def test_compiling_leaves_training_state_unchanged(self, monkeypatch: pytest.MonkeyPatch) -> None:
        used = ComputeMode(execution="compiled")
        monkeypatch.setattr(torch, "compile", lambda network, **_: network)
        rehearsed = after(used, replace(self.RECIPE, weight_decay=0.01, optimizer="adamw"))
        monkeypatch.setattr(training.Steps, "_compile", lambda *_: None)
        assert same_bits(after(used, replace(self.RECIPE, weight_decay=0.01, optimizer="adamw")), rehearsed)


# --- a compiler that is wrong -----------------------------------------------------------------------------

Wrong = Callable[[GraphModule, Tensor], Tensor]
"""What maps a network and images to its very answers, and leaves other gradients or statistics."""


def not_a_number(network: GraphModule, images: Tensor) -> Tensor:
    logits = network(images)
    return logits + (logits - logits.detach()).abs().sqrt()  # the slope of a root at 0 is infinite


def a_third_of_the_gradient(network: GraphModule, images: Tensor) -> Tensor:
    logits = network(images)
    return (logits + 2 * logits.detach()) / 3


def another_gradient_of_one_weight(network: GraphModule, images: Tensor) -> Tensor:
    weight = network.get_parameter("second.weight")
    return torch.func.functional_call(network, {"second.weight": 2 * weight - weight.detach()}, images)


def other_statistics(network: GraphModule, images: Tensor) -> Tensor:
    logits = network(images)
    network.get_buffer("other.running_var").mul_(100)
    return logits


@needs_compiler
@pytest.mark.parametrize(
    "wrong", [not_a_number, a_third_of_the_gradient, another_gradient_of_one_weight, other_statistics]
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_miscompiled_network_is_refused_without_trace(
    wrong: Wrong, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda network, **_: partial(wrong, network))
    trained = graph()
    with pytest.raises(training.Miscompiled):
        fit(trained, DATASET, RECIPE, 0, ComputeMode(precision, channels_last=True, execution="compiled"))
    assert same_bits(trained, graph())


def test_comparison_does_not_depend_on_seed_or_data(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[dict[str, Tensor]] = []
    moves = training.Steps._one_step

    def noted(*given: Any, **named: Any) -> dict[str, Tensor]:
        compared.append(moves(*given, **named))
        return compared[-1]

    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    monkeypatch.setattr(training.Steps, "_one_step", noted)
    compiled, reference = ComputeMode(channels_last=True, execution="compiled"), tensors_by_name(graph())
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, DATASET.train.images.shape, dtype=torch.uint8, generator=generator)
    others = replace(DATASET, train=replace(DATASET.train, images=images, labels=(DATASET.train.labels + 1) % 10))
    for seed, dataset in ((0, DATASET), (1, others)):
        trained = graph()
        with torch.no_grad():
            for parameter in trained.parameters():
                parameter.add_(seed)
        before = copy.deepcopy(trained.state_dict())
        fit(trained, dataset, RECIPE, seed, compiled, reference=reference)
        assert same_bits(trained, before)
    assert len(compared) == 2 * 2 * 3  # seeds, sizes of batches, and exact, rounded and compiled
    first, second = compared[:6], compared[6:]
    assert all(same_bits(one, other) for one, other in zip(first, second, strict=True))
    assert any(move.any() for move in first[0].values())


def test_miscompiled_tensor_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong, named in (
        (another_gradient_of_one_weight, r"the gradient of second\.weight"),
        (other_statistics, r"the statistic other\.running_var"),
    ):
        monkeypatch.setattr(torch, "compile", lambda network, wrong=wrong, **_: partial(wrong, network))
        with pytest.raises(training.Miscompiled, match=f"computes {named} incorrectly"):
            fit(graph(), DATASET, RECIPE, 0, ComputeMode(channels_last=True, execution="compiled"))


def test_zero_classifier_does_not_hide_miscompilation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "compile", lambda network, **_: partial(another_gradient_of_one_weight, network))
    trained = graph()
    for weight in (trained.get_parameter("last.weight"), trained.get_parameter("last.bias")):
        nn.init.zeros_(weight)
    with pytest.raises(training.Miscompiled):
        fit(trained, DATASET, RECIPE, 0, ComputeMode(execution="compiled"))
    assert not trained.get_parameter("last.weight").any()


@pytest.mark.parametrize("error", [RuntimeError("InductorError"), subprocess.CalledProcessError(1, "g++"), OSError()])
def test_compiler_failure_is_refused_without_trace(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Tensor:
        raise error

    monkeypatch.setattr(torch, "compile", lambda network, **_: fails)
    trained = graph()
    with pytest.raises(training.Miscompiled):
        fit(trained, DATASET, RECIPE, 0, ComputeMode(execution="compiled"))
    assert same_bits(trained, graph())


@needs_compiler
def test_wrong_kernel_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    right = normalise

    def other_variances(*given: Any) -> tuple[Tensor, Tensor, Tensor]:
        results, mean, variance = right(*given)
        return results, mean, 100 * variance

    monkeypatch.setattr("harness.training.batch_norm.normalise", other_variances)
    with pytest.raises(training.Miscompiled):
        fit(graph(), DATASET, RECIPE, 0, ComputeMode(channels_last=True, execution="compiled"))


def test_broken_network_is_not_called_miscompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    broken = graph()
    with torch.no_grad():
        broken.get_parameter("second.weight").fill_(torch.nan)
    fit(broken, DATASET, RECIPE, 0, ComputeMode(execution="compiled"))


class Saturated(nn.Module):
    """Its gradient is finite in float32; bfloat16 rounds the sigmoid of 8 to 1, where a root's slope is infinite."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(28 * 28, 10)
        nn.init.zeros_(self.linear.weight)
        nn.init.constant_(self.linear.bias, 8.0)

    def forward(self, images: Tensor) -> Tensor:
        return (1 - self.linear(images.flatten(1)).sigmoid()).sqrt()


def test_bfloat16_saturation_is_not_called_miscompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    torch.manual_seed(0)
    saturated = torch.export.export(
        Saturated(), (torch.rand(2, 1, 28, 28),), dynamic_shapes=({0: Dim("batch", min=2)},)
    )
    fit(saturated.module(), DATASET, RECIPE, 0, ComputeMode("bfloat16", execution="compiled"))
