import math
from dataclasses import Field, FrozenInstanceError, fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.spec import BUDGET, LONGEST, RECIPE_FIELDS, Knob, Recipe, span

FIELDS: dict[str, Field[Any]] = {declared.name: declared for declared in fields(Recipe)}
NUMBERS = [name for name, declared in FIELDS.items() if declared.type in ("int", "float")]
CHOICES = [name for name, declared in FIELDS.items() if declared.metadata["choices"]]


def recipe_with(name: str, value: object) -> Recipe:
    """Make a recipe with one field changed and no cross-field rule in the way."""
    settings: dict[str, Any] = {"epochs": LONGEST, name: value}
    return Recipe(**settings)


def bounds(name: str) -> tuple[float, float]:
    return FIELDS[name].metadata["low"], FIELDS[name].metadata["high"]


def numbers(name: str, low: float, high: float) -> st.SearchStrategy[float]:
    return st.integers(math.ceil(low), math.floor(high)) if FIELDS[name].type == "int" else st.floats(low, high)


# --- one field -------------------------------------------------------------------------------------------


@given(st.data())
@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_in_range_is_legal(name: str, data: st.DataObject) -> None:
    value = data.draw(numbers(name, *bounds(name)))
    assert getattr(recipe_with(name, value), name) == value


@pytest.mark.parametrize("name", [name for name in NUMBERS if FIELDS[name].type == "float"])
def test_integer_and_float_are_one_setting(name: str) -> None:
    assert str(recipe_with(name, 0 if FIELDS[name].metadata["low"] == 0 else 1)) == str(
        recipe_with(name, 0.0 if FIELDS[name].metadata["low"] == 0 else 1.0)
    )


@pytest.mark.parametrize("name", NUMBERS)
def test_both_ends_of_range_are_legal(name: str) -> None:
    for end in bounds(name):
        value = int(end) if FIELDS[name].type == "int" else end
        assert getattr(recipe_with(name, value), name) == value


@given(st.data())
@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_below_its_range_is_refused(name: str, data: st.DataObject) -> None:
    low = bounds(name)[0]
    if FIELDS[name].type == "int":
        value: float = data.draw(st.integers(max_value=int(low) - 1))
    else:
        value = data.draw(st.floats(max_value=low, exclude_max=True))
    with pytest.raises(UsageError, match=f"^{name} .* is out of range"):
        recipe_with(name, value)


@given(st.data())
@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_above_its_range_is_refused(name: str, data: st.DataObject) -> None:
    high = FIELDS[name].metadata["high"]
    if FIELDS[name].type == "int":
        value: float = data.draw(st.integers(min_value=int(high) + 1))
    else:
        value = data.draw(st.floats(min_value=high, exclude_min=True))
    with pytest.raises(UsageError, match=f"^{name} .* is out of range") as caught:
        recipe_with(name, value)
    assert span(FIELDS[name].metadata) in caught.value.allowed


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", NUMBERS)
def test_nan_and_infinity_are_refused(name: str, value: float) -> None:
    with pytest.raises(UsageError):
        recipe_with(name, value)


@pytest.mark.parametrize("value", [True, False, "1", None, [1], 1j])
@pytest.mark.parametrize("name", NUMBERS)
def test_number_of_another_type_is_refused(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"^{name} must be {FIELDS[name].type}, not "):
        recipe_with(name, value)


@pytest.mark.parametrize("name", [name for name in NUMBERS if FIELDS[name].type == "int"])
def test_float_for_integer_field_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="must be int"):
        recipe_with(name, 19.0)


@pytest.mark.parametrize("value", [1, 0, "true", None, 1.0])
def test_switch_must_be_bool(value: object) -> None:
    with pytest.raises(UsageError, match="nesterov must be bool"):
        recipe_with("nesterov", value)


@pytest.mark.parametrize("name", CHOICES)
def test_every_choice_is_legal(name: str) -> None:
    for choice in FIELDS[name].metadata["choices"]:
        assert getattr(recipe_with(name, choice), name) == choice


@given(value=st.text() | st.none() | st.booleans() | st.integers())
@pytest.mark.parametrize("name", CHOICES)
def test_unknown_choice_lists_legal_ones(name: str, value: Knob | None) -> None:
    choices = FIELDS[name].metadata["choices"]
    if value in choices:
        return
    with pytest.raises(UsageError, match=f"^{name} cannot be") as caught:
        recipe_with(name, value)
    assert all(choice in caught.value.allowed for choice in choices)


def test_misspelt_choice_suggests_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        Recipe(schedule="cosinus")
    assert caught.value.hint == "Did you mean 'cosine'?"


def test_every_field_has_meaning_and_legal_default() -> None:
    assert all(FIELDS[name].metadata["meaning"] for name in RECIPE_FIELDS)
    Recipe()


# --- fields together -------------------------------------------------------------------------------------


@given(epochs=st.integers(1, 30), length=st.integers(0, 40))
@pytest.mark.parametrize("name", ["warmup_epochs", "augment_fade"])
def test_phases_fit_within_training(name: str, epochs: int, length: int) -> None:
    settings: dict[str, Any] = {"epochs": epochs, name: length}
    if length <= epochs:
        assert getattr(Recipe(**settings), name) == length
    else:
        with pytest.raises(UsageError, match=f"{name} {length} is longer than the {epochs} epochs"):
            Recipe(**settings)


def test_nesterov_needs_sgd_with_momentum() -> None:
    assert Recipe(nesterov=True).nesterov
    with pytest.raises(UsageError, match="nesterov needs"):
        Recipe(nesterov=True, momentum=0)
    with pytest.raises(UsageError, match="nesterov needs"):
        Recipe(nesterov=True, optimizer="adamw")


@pytest.mark.parametrize(
    ("settings", "idle"),
    [
        ({"step_epochs": 3}, ["step_epochs"]),
        ({"step_gamma": 0.5, "schedule": "cosine"}, ["step_gamma"]),
        ({"step_epochs": 3, "step_gamma": 0.5, "schedule": "step"}, []),
        ({"zoom_crop": 20, "rotation": 5.0}, ["zoom_crop"]),
        ({"zoom_crop": 20, "zoom_p": 0.5}, []),
        ({"augment_fade": 4}, ["augment_fade"]),
        ({"augment_fade": 4, "shear": 0.1}, []),
    ],
)
def test_unused_fields_are_named(settings: dict[str, Any], idle: list[str]) -> None:
    assert Recipe(**settings).idle == idle


def test_no_field_is_idle_by_default() -> None:
    assert Recipe().idle == []


@pytest.mark.parametrize("name", ["rotation", "translate", "scale", "shear", "zoom_p"])
def test_any_range_turns_augmentation_on(name: str) -> None:
    settings: dict[str, Any] = {name: 0.5}
    assert Recipe(**settings).augments
    assert not Recipe(zoom_crop=20, augment_fade=3).augments


# --- the records -----------------------------------------------------------------------------------------


def test_defaults_are_plain_sgd() -> None:
    default = Recipe()
    assert (default.optimizer, default.lr, default.momentum, default.nesterov) == ("sgd", 0.01, 0.9, False)
    assert (default.batch_size, default.epochs, default.schedule, default.warmup_epochs) == (128, 19, "constant", 0)
    assert (default.weight_decay, default.label_smoothing, default.ema) == (0, 0, 0)
    assert not default.augments


def test_budget_has_its_published_limits() -> None:
    assert (BUDGET.parameters, BUDGET.epochs, BUDGET.accuracy, BUDGET.protocol) == (20_000, 19, 0.994, 2)


def test_recipe_is_frozen_and_copies_are_checked() -> None:
    with pytest.raises(FrozenInstanceError):
        Recipe().lr = 1.0  # type: ignore[misc]
    with pytest.raises(UsageError):
        replace(Recipe(), lr=-1.0)
