"""The architecture contract: load an `Architecture` from a path or a text.

An architecture is one self-contained Python file with a docstring, an optional ``RECIPE`` dict of `Recipe`
overrides, and ``build(*, knob=default, ...) -> nn.Module``, whose signature declares the knobs. The file is executed
in a confined process of its own (`execute`); this one gets what it declares, as data (`load`).
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from torch import nn

from harness.errors import ContractError, UsageError, device_hint, did_you_mean, printable
from harness.plugins.handover import reply, run_confined
from harness.plugins.running import running_plugin
from harness.plugins.source import load_module, read_source, summary_of
from harness.spec import RECIPE_FIELDS, Architecture, Knob, Recipe

RESERVED = ("seed", "device", "parameters", "dataset")
"""Names that the harness records beside the knobs; a knob may not have one of them."""


def load(path: str | Path) -> Architecture:
    """Read the architecture at `path`, and let a confined process check it against the contract.

    Raises:
        UsageError: there is no such file, or it cannot be read.
        ContractError: the file breaks the contract.
        CrashedError: its process died, hung, or was out of memory.
    """
    return from_source(read_source(path, "an architecture, such as architectures/s6_gap.py"), str(path))


def from_source(source: str, path: str) -> Architecture:
    """Load an architecture from its text, as `load` does; `path` gives its name and is used in messages."""
    declared = run_confined("harness.plugins.architecture:declare", {"source": source, "path": path})
    found = declared if isinstance(declared, dict) else {}
    knobs = found.get("knobs")
    if not isinstance(knobs, dict) or not all(map(_is_knob, knobs.items())):
        raise ContractError("knobs", "The file's process declares no knobs.", where=path, hint="Write them in build.")
    return Architecture(
        name=Path(path).stem,
        path=path,
        source=source,
        sha256=hashlib.sha256(source.encode()).hexdigest(),
        summary=printable(str(found.get("summary"))),
        knobs=dict(knobs),
        recipe=_recipe(found.get("recipe"), knobs, path),
    )


def _is_knob(declared: tuple[str, object]) -> bool:
    name, default = declared
    is_plain = isinstance(default, (bool, int, float, str)) and (not isinstance(default, float) or isfinite(default))
    return is_plain and name.isidentifier() and name not in (*RECIPE_FIELDS, *RESERVED)


# --- in the confined process ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Executed(Architecture):
    """An architecture whose file was executed in this process.

    Attributes:
        build: creates a new network from knobs.
    """

    build: Callable[..., nn.Module]


def declare(request: Mapping[str, str], _ask: object) -> dict[str, Any]:
    """Execute a file and reply what it declares: summary, knobs with their defaults, and recipe."""

    def work() -> dict[str, Any]:
        executed = execute(request["source"], request["path"])
        return {"summary": executed.summary, "knobs": dict(executed.knobs), "recipe": asdict(executed.recipe)}

    return reply(work)


def execute(source: str, path: str) -> Executed:
    """Execute the text of an architecture in this process, and check it against the contract.

    Raises:
        ContractError: the file breaks the contract.
        OutOfMemory: there is not enough memory.
    """
    module, summary = load_module(source, path, ("RECIPE", "build"))
    build = getattr(module, "build", None)
    if not callable(build):
        raise ContractError(
            "build",
            f"{path} defines no function build.",
            allowed="def build(*, width: int = 16) -> nn.Module: returns the network.",
            hint="`python -m harness new NAME` writes a file that fulfils the contract.",
        )
    knobs = _knobs(build, path)
    return Executed(
        name=Path(path).stem,
        path=path,
        source=source,
        sha256=hashlib.sha256(source.encode()).hexdigest(),
        summary=summary,
        knobs=knobs,
        recipe=_recipe(getattr(module, "RECIPE", {}), knobs, path),
        build=build,
    )


@dataclass(frozen=True)
class Declaration:
    """What the text of an architecture declares: first line of the docstring, defaults of the knobs, and recipe."""

    summary: str
    knobs: Mapping[str, Knob]
    recipe: Recipe


def declaration(source: str) -> Declaration:
    """Read the declaration of an architecture without executing it; values that are not literals are left out."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Declaration("", {}, Recipe())
    knobs: dict[str, Knob] = {}
    recipe = Recipe()
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "build":
            for argument, default in zip(statement.args.kwonlyargs, statement.args.kw_defaults, strict=True):
                with contextlib.suppress(ValueError, TypeError):
                    knobs[argument.arg] = ast.literal_eval(default)  # type: ignore[arg-type]
        targets = getattr(statement, "targets", [getattr(statement, "target", None)])
        if [target.id for target in targets if isinstance(target, ast.Name)] == ["RECIPE"]:
            with contextlib.suppress(ValueError, TypeError, UsageError):
                recipe = Recipe(**ast.literal_eval(statement.value))  # type: ignore[attr-defined]
    return Declaration(summary_of(tree), knobs, recipe)


def build_network(architecture: Executed, knobs: Mapping[str, Knob]) -> nn.Module:
    """Call `build` and return its network.

    Raises:
        ContractError: `build` raised, or did not return an ``nn.Module`` on the CPU.
        OutOfMemory: there is not enough memory.
    """
    given = ", ".join(f"{name}={value}" for name, value in knobs.items())
    hint = f"Fix build, or the knobs it was given: {given}." if given else "Fix build."
    with running_plugin(architecture.path, "build-raises", "build raised", hint):
        network = architecture.build(**knobs)
    if not isinstance(network, nn.Module):
        raise ContractError(
            "not-a-module",
            f"build returned {type(network).__name__}, not a torch.nn.Module.",
            where=architecture.path,
            hint="Return the network itself.",
        )
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.device.type != "cpu":
            wrong = f"build returned a network on the device {tensor.device}."
            raise ContractError("device", wrong, where=architecture.path, hint=device_hint(wrong))
    return network


def _knobs(build: Any, path: str) -> dict[str, Knob]:
    where = f"{path}:{build.__code__.co_firstlineno}" if hasattr(build, "__code__") else path
    knobs: dict[str, Knob] = {}
    for parameter in inspect.signature(build).parameters.values():
        name, default = parameter.name, parameter.default
        wrong = ""
        if parameter.kind is not parameter.KEYWORD_ONLY:
            wrong = f"build takes '{name}' by position or catch-all."
        elif default is parameter.empty:
            wrong = f"build's knob '{name}' has no default."
        elif not isinstance(default, (bool, int, float, str)):
            wrong = f"build's knob '{name}' defaults to {default!r}; a knob is an int, float, bool or str."
        elif isinstance(default, float) and not isfinite(default):
            wrong = f"build's knob '{name}' defaults to {default}; a knob is finite."
        elif name in RECIPE_FIELDS:
            wrong = f"build's knob '{name}' is also a recipe field; a name is one or the other."
        elif name in RESERVED:
            wrong = f"build's knob '{name}' has a name the harness uses itself ({', '.join(RESERVED)})."
        if wrong:
            raise ContractError(
                "knobs",
                wrong,
                where=where,
                allowed="build takes keyword-only parameters with defaults: def build(*, width: int = 16).",
                hint="Rename or rewrite the parameter.",
            )
        knobs[name] = default
    return knobs


def _recipe(overrides: object, knobs: Mapping[str, Knob], path: str) -> Recipe:
    if not isinstance(overrides, dict):
        raise ContractError(
            "recipe",
            f"RECIPE is {type(overrides).__name__}, not a dict.",
            where=path,
            hint='Write RECIPE = {"lr": 0.05}, or leave it out.',
        )
    for name in overrides:
        if name not in RECIPE_FIELDS:
            raise ContractError(
                "recipe",
                f"RECIPE has no field {name!r}.",
                where=path,
                allowed=f"Allowed: {', '.join(RECIPE_FIELDS)}.",
                hint=did_you_mean(str(name), RECIPE_FIELDS) or f"Remove {name!r} from RECIPE.",
            )
    try:
        return Recipe(**overrides)
    except UsageError as error:
        raise ContractError(
            "recipe",
            f"RECIPE: {error.message}",
            where=path,
            allowed=error.allowed,
            hint=error.hint or "Fix that value of RECIPE.",
        ) from None
