"""The study contract: load a `Study`, the search space of one architecture, from a path.

A study is one self-contained Python file with a docstring, ``ARCHITECTURE`` (the path of the architecture),
``suggest(trial) -> dict`` of settings by name, and optionally ``SAMPLER`` and ``PRUNER``.
"""

from __future__ import annotations

import hashlib
import inspect
import reprlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from harness.errors import ContractError, UsageError, did_you_mean
from harness.plugins.architecture import load
from harness.plugins.sandbox import running_plugin
from harness.plugins.source import load_module, read_source
from harness.spec import Architecture, Knob, Study

_LONGEST_TEXT = 200

SAMPLERS = ("tpe", "random")
"""Samplers that propose settings; the first is the default."""

PRUNERS = ("median", "none")
"""Pruners that stop unpromising trials early; the first is the default."""


def load_study(path: str | Path) -> Study:
    """Read the study at `path` and the architecture it names, and check both against their contracts.

    Raises:
        UsageError: there is no such file, or it cannot be read.
        ContractError: one of the files breaks its contract.
    """
    source, path = read_source(path, "a study, such as studies/s6_gap.py"), str(path)
    module, summary = load_module(source, path, ("ARCHITECTURE", "SAMPLER", "PRUNER", "suggest"))
    suggest = getattr(module, "suggest", None)
    if not callable(suggest) or len(inspect.signature(suggest).parameters) != 1:
        raise ContractError(
            "suggest",
            f"{path} defines no function suggest(trial).",
            where=path,
            allowed='def suggest(trial): return {"lr": trial.suggest_float("lr", 0.01, 0.3, log=True)}',
            hint="Write it; studies/s6_gap.py shows one.",
        )
    return Study(
        name=Path(path).stem,
        path=path,
        source=source,
        sha256=hashlib.sha256(source.encode()).hexdigest(),
        summary=summary,
        architecture=_searched(getattr(module, "ARCHITECTURE", None), path),
        sampler=_choice(module, "SAMPLER", SAMPLERS, path),
        pruner=_choice(module, "PRUNER", PRUNERS, path),
        suggest=suggest,
    )


def suggest(study: Study, trial: Any) -> dict[str, Knob]:
    """Return the settings that the study suggests for an Optuna trial; `apply_settings` checks their values.

    Raises:
        ContractError: `suggest` raised, or did not return a dict of settings by name.
    """
    with running_plugin(study.path, "suggest-raises", "suggest raised", "Fix that line."):
        settings = study.suggest(trial)
    if not isinstance(settings, dict):
        raise ContractError(
            "suggest",
            f"suggest returned {type(settings).__name__}, not a dict.",
            where=study.path,
            hint='Return settings by name: {"lr": trial.suggest_float("lr", 0.01, 0.3, log=True)}',
        )
    settings = {name: value.item() if isinstance(value, np.generic) else value for name, value in settings.items()}
    for name, value in settings.items():
        if not isinstance(name, str) or not _is_scalar(value):
            raise ContractError(
                "suggest",
                f"suggest returned a setting that is not allowed: {type(value).__name__} for {reprlib.repr(name)}.",
                where=study.path,
                allowed="Allowed: a name with a number below 2**63, a short text, True or False.",
                hint="Leave out a setting that a trial does not have.",
            )
    return settings


def _is_scalar(value: object) -> bool:
    """Whether a value can be a setting: it can be printed, typed on the command line, and stored in JSON and SQL."""
    if isinstance(value, str):
        return value.isprintable() and len(value) <= _LONGEST_TEXT
    return isinstance(value, (bool, float)) or (isinstance(value, int) and abs(value) < 2**63)


def _searched(path: object, study: str) -> Architecture:
    if not isinstance(path, str):
        raise ContractError(
            "architecture",
            f"{study} does not say which architecture it searches.",
            where=study,
            hint='Write ARCHITECTURE = "architectures/s6_gap.py" near its top.',
        )
    try:
        return load(path)
    except UsageError as error:
        raise ContractError(
            "architecture",
            f"ARCHITECTURE: {error.message}",
            where=study,
            allowed="Allowed: the path of an architecture, from the folder the command is run in.",
            hint=error.hint or "Fix that path.",
        ) from None


def _choice(module: ModuleType, name: str, allowed: tuple[str, ...], path: str) -> str:
    value = getattr(module, name, allowed[0])
    if value not in allowed:
        raise ContractError(
            name.lower(),
            f"{name} cannot be {value!r}.",
            where=path,
            allowed=f"Allowed: {', '.join(allowed)}.",
            hint=did_you_mean(str(value), allowed) or "Choose one of them, or leave it out.",
        )
    return str(value)
