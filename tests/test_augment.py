import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as T

from harness.spec import Recipe
from harness.training.augment import DRAWS, augment, strength

EVERYTHING = Recipe(rotation=25, translate=0.2, scale=0.2, shear=0.3, zoom_p=0.5)
MIDDLE = 0.5
"""A draw that moves nothing."""

seeds = st.integers(0, 2**32 - 1)


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, 28, 28, generator=torch.Generator().manual_seed(seed))


def uniform(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, DRAWS, generator=torch.Generator().manual_seed(seed))


def draws(count: int, *, zoom: bool = False, angle: float = 0, right: float = 0, down: float = 0) -> Tensor:
    """Return draws that swing by the given shares (-1 to 1) of the ranges and by nothing else."""
    row = torch.full((DRAWS,), MIDDLE)
    row[0] = 0.0 if zoom else 0.999
    row[1:4] = (torch.tensor([angle, right, down]) + 1) / 2
    return row.repeat(count, 1)


TINY = 1e-5
"""Sampling positions are rounded to about 2e-6 of a pixel."""


# --- nothing to do ---------------------------------------------------------------------------------------


@given(seed=seeds)
def test_zero_ranges_leave_images_unchanged(seed: int) -> None:
    assert torch.allclose(augment(images(4, seed), uniform(4, seed), Recipe()), images(4, seed), rtol=0, atol=TINY)


@given(seed=seeds)
def test_zero_strength_leaves_images_unchanged(seed: int) -> None:
    unmoved = augment(images(4, seed), uniform(4, seed), EVERYTHING, strength=0.0)
    assert torch.allclose(unmoved, images(4, seed), rtol=0, atol=TINY)


@given(seed=seeds, strength=st.floats(0, 1))
def test_fast_grid_equals_reference_grid(seed: int, strength: float) -> None:
    plain, faster = (augment(images(5, seed), uniform(5, seed), EVERYTHING, strength, plain) for plain in (True, False))
    assert torch.allclose(faster, plain, rtol=0, atol=TINY)


# --- each movement alone ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("swing", "quarters"), [(0.5, -1), (-0.5, 1), (1.0, 2)])
def test_quarter_turns_match_torch(swing: float, quarters: int) -> None:
    turned = augment(images(3), draws(3, angle=swing), Recipe(rotation=180))
    assert torch.allclose(turned, torch.rot90(images(3), quarters, (2, 3)), rtol=0, atol=1e-4)


@given(degrees=st.floats(-180, 180))
@settings(max_examples=25)
def test_rotation_matches_torchvision(degrees: float) -> None:
    turned = augment(images(2), draws(2, angle=degrees / 180), Recipe(rotation=180))
    wanted = T.rotate(images(2), -degrees, InterpolationMode.BILINEAR)  # torchvision turns the other way
    assert torch.allclose(turned, wanted, rtol=0, atol=1e-3)


@given(right=st.integers(-14, 14), down=st.integers(-14, 14))
def test_whole_pixel_shift_fills_with_black(right: int, down: int) -> None:
    shifted = augment(images(2), draws(2, right=right / 14, down=down / 14), Recipe(translate=1.0))
    wanted = images(2).roll((down, right), (2, 3))
    wanted[:, :, : max(down, 0)] = 0
    wanted[:, :, 28 + min(down, 0) :] = 0
    wanted[:, :, :, : max(right, 0)] = 0
    wanted[:, :, :, 28 + min(right, 0) :] = 0
    assert torch.allclose(shifted, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("crop", [4, 14, 20, 22, 26, 28])
def test_zoom_is_resized_centre_crop(crop: int) -> None:
    zoomed = augment(images(3), draws(3, zoom=True), Recipe(zoom_p=1.0, zoom_crop=crop))
    wanted = F.interpolate(T.center_crop(images(3), [crop, crop]), size=28, mode="bilinear")
    # Beyond the outermost centres of the crop, resizing repeats its edge and we see the pixels that are there.
    edge = math.ceil((28 / crop - 1) / 2)
    inner = slice(edge, 28 - edge)
    assert torch.allclose(zoomed[:, :, inner, inner], wanted[:, :, inner, inner], rtol=0, atol=1e-4)


@given(seed=seeds)
@settings(max_examples=25)
def test_combined_affine_matches_torchvision(seed: int) -> None:
    recipe = Recipe(rotation=40, translate=0.3, scale=0.3, shear=0.4)
    row = uniform(1, seed)
    swing = [float(value) for value in row[0, 1:] * 2 - 1]
    wanted = T.affine(
        images(2),
        angle=40 * swing[0],
        translate=[0.3 * swing[1] * 14, 0.3 * swing[2] * 14],
        scale=1 + 0.3 * swing[3],
        shear=[math.degrees(math.atan(0.4 * swing[4])), 0.0],
        interpolation=InterpolationMode.BILINEAR,
    )
    assert torch.allclose(augment(images(2), row.repeat(2, 1), recipe), wanted, rtol=0, atol=1e-3)


def test_zoom_precedes_shift() -> None:
    zoomed = augment(images(1), draws(1, zoom=True), Recipe(zoom_p=1.0, zoom_crop=14))
    both = augment(images(1), draws(1, zoom=True, right=0.5), Recipe(zoom_p=1.0, zoom_crop=14, translate=1.0))
    assert torch.allclose(both[..., 7:], zoomed[..., :-7], rtol=0, atol=1e-4)  # 7 pixels of the zoomed image


# --- chance ----------------------------------------------------------------------------------------------


@given(share=st.floats(0, 1))
@settings(max_examples=25)
def test_share_of_zoomed_images_equals_probability(share: float) -> None:
    evenly = torch.full((100, DRAWS), MIDDLE)
    evenly[:, 0] = (torch.arange(100) + 0.5) / 100
    moved = augment(images(1).expand(100, 1, 28, 28), evenly, Recipe(zoom_p=share, zoom_crop=14))
    changed = (moved - images(1)).abs().amax((1, 2, 3)) > 0.01
    assert abs(int(changed.sum()) - 100 * share) <= 1


@given(seed=seeds)
@settings(max_examples=25)
def test_image_depends_only_on_its_own_draws(seed: int) -> None:
    order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
    before, lots = images(8, seed), uniform(8, seed)
    together = augment(before, lots, EVERYTHING)
    assert torch.allclose(augment(before[order], lots[order], EVERYTHING), together[order], rtol=0, atol=1e-5)
    assert torch.allclose(augment(before[:1], lots[:1], EVERYTHING), together[:1], rtol=0, atol=1e-5)


def test_equal_images_differ_by_their_draws() -> None:
    moved = augment(images(1).expand(6, 1, 28, 28), uniform(6), EVERYTHING).flatten(1)
    assert len(moved.unique(dim=0)) == 6


@given(seed=seeds)
@settings(max_examples=25)
def test_border_is_black_and_nothing_brightens(seed: int) -> None:
    white = torch.ones(6, 1, 28, 28)
    moved = augment(white, uniform(6, seed), Recipe(rotation=180, translate=0.9, scale=0.5, shear=0.5))
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 1 + 1e-5
    shifted = augment(white, draws(6, right=1.0), Recipe(translate=1.0))
    assert bool((shifted[..., :13] == 0).all())
    assert torch.allclose(shifted[..., 15:], torch.ones(()), rtol=0, atol=1e-5)


@given(factor=st.floats(0, 1))
@settings(max_examples=25)
def test_strength_scales_every_range(factor: float) -> None:
    ranges: dict[str, Any] = {"rotation": 40.0, "translate": 0.3, "scale": 0.3, "shear": 0.4}
    weaker = Recipe(**{name: factor * value for name, value in ranges.items()})
    some, lots = images(3), uniform(3)
    faded = augment(some, lots, Recipe(**ranges), factor)
    assert torch.allclose(faded, augment(some, lots, weaker), rtol=0, atol=1e-4)


# --- the fade --------------------------------------------------------------------------------------------


def test_strength_fades_to_zero_in_last_epoch() -> None:
    fading = Recipe(epochs=8, augment_fade=4, rotation=10)
    assert [strength(fading, epoch) for epoch in range(1, 9)] == [1, 1, 1, 1, 0.75, 0.5, 0.25, 0]


@given(epochs=st.integers(1, 40), epoch=st.integers(1, 40))
def test_strength_stays_full_without_fade(epochs: int, epoch: int) -> None:
    assert strength(Recipe(epochs=epochs), epoch) == 1


@given(st.data())
def test_strength_never_rises(data: st.DataObject) -> None:
    epochs = data.draw(st.integers(1, 40))
    recipe = Recipe(epochs=epochs, augment_fade=data.draw(st.integers(1, epochs)))
    course = [strength(recipe, epoch) for epoch in range(1, epochs + 1)]
    assert course == sorted(course, reverse=True)
    assert all(0 <= value <= 1 for value in course)
    assert course[-1] == 0
