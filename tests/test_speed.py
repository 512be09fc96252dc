"""The speed command: two ways in turns, the plain loop as torchvision has it, and the roofline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torchvision import transforms

from harness import cli, data, plugins, runs, speed
from harness.audit import audit
from harness.errors import CrashedError
from harness.runs import inspect
from harness.spec import ComputeMode, Job, Recipe
from harness.speed import Roofline, Speed
from harness.speed.reference import _transforms
from harness.speed.speed import _as_in_a_script
from harness.training import compute

S6_GAP = Path(__file__).parent.parent / "architectures" / "s6_gap.py"


def job(path: str = "tiny.py", **settings: float) -> Job:
    architecture = plugins.load(path)
    knobs, recipe = plugins.apply_settings(architecture, settings)
    return runs.jobs(architecture, knobs, recipe, data.load("digits"), range(1), "cpu")[0]


def test_turns_alternate_and_ratio_pairs_neighbours(workplace: Path) -> None:
    *turns, whole = speed.measure(job(epochs=5), epochs=3, workers=0)
    assert isinstance(whole, Speed)
    assert [turn[0] for turn in turns] == ["reference", "harness"] * 3  # type: ignore[index]
    assert [turn[1] for turn in turns][::2] == list(whole.reference)  # type: ignore[index]
    assert [turn[1] for turn in turns][1::2] == list(whole.harness)  # type: ignore[index]
    assert whole.images == 1_437
    assert whole.ratio == sorted(whole.ratios)[1]
    assert whole.ratios[2] == whole.harness[2] / whole.reference[2]


def test_worker_processes_load_same_images(workplace: Path) -> None:
    *_, whole = speed.measure(job(), epochs=1, workers=2)
    assert isinstance(whole, Speed)
    assert len(whole.reference) == 1


def test_compiler_failure_is_reported(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(compute, "mode_for_this_machine", lambda *_: ComputeMode(execution="compiled"))
    with pytest.raises(CrashedError, match="no such instruction"):
        list(speed.measure(job(), epochs=1, workers=0))


def test_reference_loop_uses_torch_defaults() -> None:
    compute.set_deterministic("cuda")
    try:
        with _as_in_a_script("cuda"):
            assert torch.backends.cudnn.allow_tf32
            assert not torch.backends.cudnn.deterministic
            assert not torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cudnn.benchmark
        assert torch.backends.cudnn.deterministic
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        compute.repeat_bits(False)


@pytest.mark.parametrize(
    ("recipe", "kinds"),
    [
        (Recipe(), []),
        (Recipe(rotation=15.0, zoom_p=0.1), [transforms.RandomApply, transforms.RandomRotation]),
        (Recipe(rotation=12.0, translate=0.12, scale=0.1, shear=0.1), [transforms.RandomAffine]),
    ],
)
def test_recipe_translates_to_torchvision(recipe: Recipe, kinds: list[type]) -> None:
    compose = _transforms(recipe, 0.1307, 0.3081)
    found = compose.transforms  # type: ignore[attr-defined]
    assert [type(step) for step in found] == [*kinds, transforms.ToTensor, transforms.Normalize]


def test_affine_units_translate_to_torchvision() -> None:
    recipe = Recipe(rotation=12.0, translate=0.12, scale=0.1, shear=0.1)
    affine = _transforms(recipe, 0.1, 0.3).transforms[0]  # type: ignore[attr-defined]
    assert affine.degrees == [-12.0, 12.0]
    assert affine.translate == (0.06, 0.06)  # of the whole width, where ours is of half of it
    assert affine.scale == (0.9, 1.1)
    assert affine.shear == pytest.approx([-5.7106, 5.7106], abs=1e-4)  # degrees whose tangent is 0.1


def test_least_work_matches_hand_count() -> None:
    found = audit(
        torch.nn.Sequential(
            torch.nn.Conv2d(1, 4, 5, stride=4), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(144, 10)
        ),
        "net.py",
    )
    convolution, linear = 144 * 25, 144 * 10
    operations, numbers = speed.work(found)
    assert operations == 2 * (2 * convolution + 3 * linear)
    assert numbers == (2 * 784 + 2 * 144) + (3 * 144 + 2 * 10)


def test_s6_gap_work_is_almost_three_passes() -> None:
    inspected = inspect(plugins.load(S6_GAP), plugins.load(S6_GAP).knobs)
    found, model = inspected.audit, inspected.model
    first = 16 * 26 * 26 * 9
    assert speed.work(found)[0] == 6 * model.multiply_adds - 2 * first


def test_roofline_is_the_scarcer_resource() -> None:
    assert Roofline(bandwidth=100.0, rate=1000.0, bytes=10.0, operations=10.0).images_per_second == 10.0
    assert Roofline(bandwidth=1000.0, rate=100.0, bytes=10.0, operations=50.0).images_per_second == 2.0


class TestCommand:
    def test_speed_prints_turns_ratio_and_roofline(self, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["speed", "tiny.py", "--dataset", "digits", "--epochs", "2"]) == 0
        printed = capsys.readouterr().out
        assert "plain loop, 0 workers" in printed
        assert "ratio " in printed
        assert "median of 2 pairs of turns" in printed
        assert "roofline: convolutions and linear layers move" in printed
        assert not (workplace / "mlruns" / "journal").exists()

    def test_json_is_the_only_output(self, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["speed", "tiny.py", "--dataset", "digits", "--epochs", "1", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["ratio"] == found["harness"][0] / found["reference"][0]
        assert found["roofline"]["images_per_second"] > 0
        assert found["arithmetic"]["execution"] == "eager"

    @pytest.mark.parametrize("arguments", [["--epochs", "0"], ["--epochs", "3"], ["--workers", "-1"]])
    def test_unusable_options_are_refused(
        self, workplace: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(["speed", "tiny.py", "--dataset", "digits", *arguments]) == 2
        assert arguments[0] in capsys.readouterr().err
