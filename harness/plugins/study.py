"""The study contract: load a `Study`, the search space of one architecture, from a path.

A study is one self-contained Python file with a docstring, ``ARCHITECTURE`` (the path of the architecture),
``suggest(trial) -> dict`` of settings by name, and optionally ``SAMPLER`` and ``PRUNER``. It is executed in a confined
process of its own. Its `suggest` sees a trial that has Optuna's three methods and a number; each call is answered by
the process that has the real trial.
"""

from __future__ import annotations

import hashlib
import inspect
import reprlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from harness.errors import ContractError, UsageError, did_you_mean, printable
from harness.plugins.architecture import load
from harness.plugins.handover import reply, run_confined
from harness.plugins.running import running_plugin
from harness.plugins.source import load_module, read_source
from harness.spec import Architecture, Knob, Study

_LONGEST_TEXT = 200

SAMPLERS = ("tpe", "random")
"""Samplers that propose settings; the first is the default."""

PRUNERS = ("median", "none")
"""Pruners that stop unpromising trials early; the first is the default."""


def load_study(path: str | Path) -> Study:
    """Read the study at `path` and the architecture it names, and let confined processes check both.

    Raises:
        UsageError: there is no such file, or it cannot be read.
        ContractError: one of the files breaks its contract.
        CrashedError: a process died, hung, or was out of memory.
    """
    source, path = read_source(path, "a study, such as studies/s6_gap.py"), str(path)
    declared = run_confined("harness.plugins.study:declare_study", {"source": source, "path": path})
    found = declared if isinstance(declared, dict) else {}
    return Study(
        name=Path(path).stem,
        path=path,
        source=source,
        sha256=hashlib.sha256(source.encode()).hexdigest(),
        summary=printable(str(found.get("summary"))),
        architecture=_searched(found.get("architecture"), path),
        sampler=_choice("SAMPLER", found.get("sampler"), SAMPLERS, path),
        pruner=_choice("PRUNER", found.get("pruner"), PRUNERS, path),
    )


def suggest(study: Study, trial: Any) -> dict[str, Knob]:
    """Return the settings that the study suggests for an Optuna trial; `apply_settings` checks their values.

    Raises:
        ContractError: `suggest` raised, or did not return a dict of settings by name.
        CrashedError: its process died, hung, or was out of memory.
    """
    request = {"source": study.source, "path": study.path, "number": trial.number}
    settings = run_confined("harness.plugins.study:call_suggest", request, lambda asked: _answer(trial, asked))
    if not isinstance(settings, dict) or not all(map(_is_scalar, settings.values())):
        raise ContractError("suggest", "The file's process suggests no settings.", where=study.path)
    return settings


def _answer(trial: Any, asked: Any) -> dict[str, Any]:
    """Let Optuna's trial suggest what a confined process asks for: the name of a method and its arguments."""
    try:
        method, name, arguments = asked["method"], asked["name"], dict(asked["arguments"])
        if method not in _METHODS or not isinstance(name, str) or not name.isprintable() or len(name) > _LONGEST_TEXT:
            raise ValueError(f"a trial has no method {method!r} for the name {name!r}")
        return {"value": getattr(trial, method)(name, **arguments)}
    except Exception as error:  # Optuna raises several types for a range that is none; the file asked for it
        return {"error": f"{type(error).__name__}: {error}"}


_METHODS = ("suggest_float", "suggest_int", "suggest_categorical")


# --- in the confined process ------------------------------------------------------------------------------


class Trial:
    """The trial that `suggest` is given: Optuna's three methods and its number.

    Args:
        number: of the trial, from 0.
        ask: asks the process that has Optuna's trial.
        path: of the study.
    """

    def __init__(self, number: int, ask: Callable[[Any], Any], path: str) -> None:
        self.number = number
        self.params: dict[str, Knob | None] = {}
        self._ask = ask
        self._path = path

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Suggest a number from `low` to `high`, both included."""
        arguments = {"low": float(low), "high": float(high), "step": step and float(step), "log": bool(log)}
        return float(self._suggest("suggest_float", name, arguments))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Suggest an integer from `low` to `high`, both included."""
        arguments = {"low": int(low), "high": int(high), "step": int(step), "log": bool(log)}
        return int(self._suggest("suggest_int", name, arguments))

    def suggest_categorical(self, name: str, choices: Sequence[Knob | None]) -> Any:
        """Suggest one of `choices`: Optuna stores a choice as JSON and compares choices by hash."""
        for choice in choices:
            if type(choice) not in (bool, int, float, str, type(None)):
                raise ContractError(
                    "suggest",
                    f"suggest_categorical('{name}') has a choice of type {type(choice).__name__}.",
                    where=self._path,
                    allowed="Allowed: numbers, texts, True, False and None.",
                    hint="Offer names and look up their values: {'small': (8, 0.1)}[choice].",
                )
        return self._suggest("suggest_categorical", name, {"choices": [*choices]})

    def _suggest(self, method: str, name: str, arguments: Mapping[str, Any]) -> Any:
        answer = self._ask({"method": method, "name": str(name), "arguments": dict(arguments)})
        if "error" in answer:
            raise ValueError(answer["error"])
        self.params[name] = answer["value"]
        return answer["value"]


def declare_study(request: Mapping[str, str], _ask: object) -> dict[str, Any]:
    """Execute a study and reply what it declares: summary, architecture, sampler and pruner."""

    def work() -> dict[str, Any]:
        module, summary, _ = _execute_study(request["source"], request["path"])
        names = {"architecture": None, "sampler": SAMPLERS[0], "pruner": PRUNERS[0]}
        found = {name: getattr(module, name.upper(), default) for name, default in names.items()}
        return {"summary": summary} | {name: value and str(value) for name, value in found.items()}

    return reply(work)


def call_suggest(request: Mapping[str, Any], ask: Callable[[Any], Any]) -> dict[str, Any]:
    """Execute a study and reply the settings that its `suggest` returns for a trial."""

    def work() -> dict[str, Any]:
        path = request["path"]
        _, _, function = _execute_study(request["source"], path)
        with running_plugin(path, "suggest-raises", "suggest raised", "Fix that line."):
            settings = function(Trial(request["number"], ask, path))
        return _checked_settings(settings, path)

    return reply(work)


def _execute_study(source: str, path: str) -> tuple[ModuleType, str, Callable[[Trial], Any]]:
    module, summary = load_module(source, path, ("ARCHITECTURE", "SAMPLER", "PRUNER", "suggest"))
    function = getattr(module, "suggest", None)
    if not callable(function) or len(inspect.signature(function).parameters) != 1:
        raise ContractError(
            "suggest",
            f"{path} defines no function suggest(trial).",
            where=path,
            allowed='def suggest(trial): return {"lr": trial.suggest_float("lr", 0.01, 0.3, log=True)}',
            hint="Write it; studies/s6_gap.py shows one.",
        )
    return module, summary, function


def _checked_settings(settings: Any, path: str) -> dict[str, Knob]:
    if not isinstance(settings, dict):
        raise ContractError(
            "suggest",
            f"suggest returned {type(settings).__name__}, not a dict.",
            where=path,
            hint='Return settings by name: {"lr": trial.suggest_float("lr", 0.01, 0.3, log=True)}',
        )
    settings = {name: value.item() if isinstance(value, np.generic) else value for name, value in settings.items()}
    for name, value in settings.items():
        if not isinstance(name, str) or not _is_scalar(value):
            raise ContractError(
                "suggest",
                f"suggest returned a setting that is not allowed: {type(value).__name__} for {reprlib.repr(name)}.",
                where=path,
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


def _choice(name: str, value: Any, allowed: tuple[str, ...], path: str) -> str:
    if value not in allowed:
        raise ContractError(
            name.lower(),
            f"{name} cannot be {value!r}.",
            where=path,
            allowed=f"Allowed: {', '.join(allowed)}.",
            hint=did_you_mean(str(value), allowed) or "Choose one of them, or leave it out.",
        )
    return str(value)
