"""Settings by name: apply them over a plug-in's defaults, and print them for tables and the command line."""

from __future__ import annotations

import reprlib
import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from harness.errors import UsageError, did_you_mean
from harness.spec import RECIPE_FIELDS, Architecture, Knob, Recipe


def apply_settings(architecture: Architecture, settings: Mapping[str, Knob]) -> tuple[dict[str, Knob], Recipe]:
    """Apply `settings` (knobs and recipe fields by name) over the plug-in's defaults.

    Returns:
        All knobs of `build`, and the recipe.

    Raises:
        UsageError: a name is unknown, or a value is not allowed for it.
    """
    allowed = [*architecture.knobs, *RECIPE_FIELDS]
    for name in settings:
        if name not in allowed:
            raise UsageError(
                f"{architecture.name} has no knob or recipe field '{name}'.",
                allowed=f"Knobs: {', '.join(architecture.knobs) or 'none'}. Recipe: {', '.join(RECIPE_FIELDS)}.",
                hint=did_you_mean(name, allowed),
            )
    knobs = dict(architecture.knobs)
    for name, default in architecture.knobs.items():
        if name in settings:
            knobs[name] = _knob_value(name, settings[name], default)
    overrides: dict[str, Any] = {name: value for name, value in settings.items() if name in RECIPE_FIELDS}
    return knobs, replace(architecture.recipe, **overrides)


def _knob_value(name: str, value: Knob, default: Knob) -> Knob:
    if isinstance(default, float) and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not abs(value) <= sys.float_info.max:  # refuses NaN too
            raise UsageError(f"{name} cannot be {value}.", allowed="Allowed: finite numbers.")
        return float(value)
    if type(value) is not type(default):
        raise UsageError(
            f"{name} must be {type(default).__name__}, not {value!r}.",
            allowed=f"Its default is {default!r}.",
        )
    return value


def changed_settings(
    knobs: Mapping[str, Knob], recipe: Recipe, default_knobs: Mapping[str, Knob], default_recipe: Recipe
) -> dict[str, Knob]:
    """Return the knobs and recipe fields that differ from the defaults, by name."""
    changed = {name: value for name, value in knobs.items() if value != default_knobs.get(name)}
    fields = {name: (getattr(recipe, name), getattr(default_recipe, name)) for name in RECIPE_FIELDS}
    return changed | {name: value for name, (value, default) in fields.items() if value != default}


def run_command(path: str, dataset: str, settings: Mapping[str, Knob]) -> str:
    """Return the command that trains the file at `path` with these settings, without options for seeds."""
    options = "".join(f" --set {name}={value_text(value)}" for name, value in settings.items())
    return f"python -m harness run {shlex.quote(path)} --dataset {dataset}{options}"


def settings_text(settings: Mapping[str, Knob]) -> str:
    """Return settings as one text for a table, such as ``lr=0.1 width=12``."""
    return " ".join(settings_texts(settings))


def settings_texts(settings: Mapping[str, Knob]) -> list[str]:
    """Return one text per setting for a table, such as ``lr=0.1`` and ``width=12``."""
    return [f"{name}={short_value(value)}" for name, value in settings.items()]


def value_text(value: Knob) -> str:
    """Return a value as it is typed on the command line."""
    return str(value).lower() if isinstance(value, bool) else shlex.quote(str(value))


def short_value(value: Knob) -> str:
    """Return a value in at most about 30 characters."""
    return f"{value:.4g}" if isinstance(value, float) else reprlib.repr(value).strip("'")
