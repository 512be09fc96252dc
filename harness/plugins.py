"""From a path to an `Architecture` or a `Study`: every rule of the two plug-in contracts.

An architecture in short: one self-contained Python file with a docstring, an optional ``RECIPE`` dict of
`Recipe` overrides, and ``build(*, knob=default, ...) -> nn.Module``. The signature is the declaration
of the knobs. A study: likewise one file, with ``ARCHITECTURE``, the path of what it searches,
``suggest(trial) -> dict`` of settings, and optionally ``SAMPLER`` and ``PRUNER``. A plug-in is Python that
runs on this machine: nothing here isolates a hostile file.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import functools
import hashlib
import importlib.util
import inspect
import linecache
import math
import os
import reprlib
import signal
import site
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from harness.errors import ContractError, OutOfMemory, UsageError, did_you_mean, mend_devices, ran_out_of_memory
from harness.spec import RECIPE_FIELDS, Architecture, Knob, Recipe, Study

RESERVED = ("seed", "device", "parameters", "dataset")
"""Names the harness records beside every knob; a knob of that name would be ambiguous."""

_LONGEST_TEXT = 200

SAMPLERS = ("tpe", "random")
"""Who proposes a study's settings; the first is the default."""

PRUNERS = ("median", "none")
"""Who stops a study's hopeless trials early; the first is the default."""


def load(path: str | Path) -> Architecture:
    """Read the architecture at `path` and check it against the contract.

    Raises:
        UsageError: there is no such file.
        ContractError: the file breaks the contract.
    """
    return from_source(_read(path, "an architecture, such as architectures/s6_gap.py"), str(path))


def from_source(source: str, path: str) -> Architecture:
    """Check the architecture's text `source`, as `load` does; `path` is used for its name and in messages."""
    module, summary = _module(source, path, ("RECIPE", "build"))
    build = getattr(module, "build", None)
    if not callable(build):
        raise ContractError(
            "build",
            f"{path} defines no function build.",
            legal="def build(*, width: int = 16) -> nn.Module: returns the network.",
            mend="`python -m harness new NAME` writes a file that keeps the contract.",
        )
    knobs = _knobs(build, path)
    return Architecture(
        name=Path(path).stem,
        path=path,
        source=source,
        sha256=hashlib.sha256(source.encode()).hexdigest(),
        summary=summary,
        knobs=knobs,
        recipe=_recipe(getattr(module, "RECIPE", {}), knobs, path),
        build=build,
    )


def load_study(path: str | Path) -> Study:
    """Read the study at `path`, and the architecture it names, and check both against their contracts.

    Raises:
        UsageError: there is no such file.
        ContractError: a file breaks its contract.
    """
    source, path = _read(path, "a study, such as studies/s6_gap.py"), str(path)
    module, summary = _module(source, path, ("ARCHITECTURE", "SAMPLER", "PRUNER", "suggest"))
    suggest = getattr(module, "suggest", None)
    if not callable(suggest) or len(inspect.signature(suggest).parameters) != 1:
        raise ContractError(
            "suggest",
            f"{path} defines no function suggest(trial).",
            where=path,
            legal='def suggest(trial): return {"lr": trial.suggest_float("lr", 0.01, 0.3, log=True)}',
            mend="Write it; studies/s6_gap.py shows one.",
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
    """Ask the study for the settings of an Optuna trial; `settle` checks them.

    Raises:
        ContractError: its `suggest` raised, or returned something that is not a dict.
    """
    with _running(study.path, "suggest-raises", "suggest raised", "Mend that line."):
        settings = study.suggest(trial)
    if not isinstance(settings, dict):
        raise ContractError(
            "suggest",
            f"suggest returned {type(settings).__name__}, not a dict.",
            where=study.path,
            mend='Return settings by name: {"lr": trial.suggest_float("lr", 0.01, 0.3, log=True)}',
        )
    settings = {name: value.item() if isinstance(value, np.generic) else value for name, value in settings.items()}
    for name, value in settings.items():
        if not isinstance(name, str) or not _is_plain(value):
            raise ContractError(
                "suggest",
                f"suggest returned what is no setting: {type(value).__name__} under {reprlib.repr(name)}.",
                where=study.path,
                legal="Legal: a name, and a number below 2**63, a short text, True or False.",
                mend="Leave a setting out where a trial has none.",
            )
    return settings


def _is_plain(value: object) -> bool:
    """Whether a value can be a setting at all: printed, typed on the command line, and stored by anybody."""
    if isinstance(value, str):
        return value.isprintable() and len(value) <= _LONGEST_TEXT
    return isinstance(value, (bool, float)) or (isinstance(value, int) and abs(value) < 2**63)


def _searched(path: object, study: str) -> Architecture:
    if not isinstance(path, str):
        raise ContractError(
            "architecture",
            f"{study} does not say which architecture it searches.",
            where=study,
            mend='Write ARCHITECTURE = "architectures/s6_gap.py" near its top.',
        )
    try:
        return load(path)
    except UsageError as error:
        raise ContractError(
            "architecture",
            f"ARCHITECTURE: {error.wrong}",
            where=study,
            legal="Legal: the path of an architecture, from the folder the command is run in.",
            mend=error.mend or "Mend that path.",
        ) from None


def _choice(module: ModuleType, name: str, legal: tuple[str, ...], path: str) -> str:
    value = getattr(module, name, legal[0])
    if value not in legal:
        raise ContractError(
            name.lower(),
            f"{name} cannot be {value!r}.",
            where=path,
            legal=f"Legal: {', '.join(legal)}.",
            mend=did_you_mean(str(value), legal) or "Choose one of them, or leave it out.",
        )
    return str(value)


def _read(path: str | Path, what: str) -> str:
    file = Path(path)
    if file.is_dir():
        raise UsageError(f"{path} is a folder.", mend=f"Give its files: {file}/*.py")
    if not file.is_file():
        near = sorted(f"{found}" for found in file.parent.glob("*.py")) if file.parent.is_dir() else []
        meant = [
            place for place in Path().glob(f"*/{file.stem}.py") if place.parent.name in ("architectures", "studies")
        ]
        raise UsageError(
            f"There is no file {path}.",
            legal=f"Give the path of {what}.",
            mend=f"Did you mean '{meant[0]}'?" if meant else did_you_mean(str(path), near),
        )
    try:
        return file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError:
        raise ContractError("not-python", f"{path} is not UTF-8 text.", mend="Give a Python source file.") from None


def _module(source: str, path: str, official: tuple[str, ...]) -> tuple[ModuleType, str]:
    """Execute a plug-in whose `official` names the harness reads; return it and its docstring's first line."""
    tree = _parse(source, path)
    _refuse_local_imports(tree, path)
    module = _execute(source, path)
    _refuse_near_misses(tree, module, path, official)
    summary = _summary(tree)
    if not summary:
        raise ContractError(
            "docstring",
            f"{path} has no docstring.",
            where=path,
            mend='Begin the file with one line that says what it is: """..."""',
        )
    return module, summary


@dataclass(frozen=True)
class Declaration:
    """What an architecture's text says of itself: the docstring's first line, its knobs' defaults, its recipe."""

    summary: str
    knobs: Mapping[str, Knob]
    recipe: Recipe


def declaration(source: str) -> Declaration:
    """Read what an architecture declares, without running it; what is not written as a plain value is left out."""
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
    return Declaration(_summary(tree), knobs, recipe)


def settle(architecture: Architecture, settings: Mapping[str, Knob]) -> tuple[dict[str, Knob], Recipe]:
    """Apply `settings` (knobs and recipe fields by name) over the plug-in's own.

    Returns:
        All knobs of `build`, and the recipe.

    Raises:
        UsageError: an unknown name, or a value that is not legal for it.
    """
    legal = [*architecture.knobs, *RECIPE_FIELDS]
    for name in settings:
        if name not in legal:
            raise UsageError(
                f"{architecture.name} has no knob or recipe field '{name}'.",
                legal=f"Knobs: {', '.join(architecture.knobs) or 'none'}. Recipe: {', '.join(RECIPE_FIELDS)}.",
                mend=did_you_mean(name, legal),
            )
    knobs = dict(architecture.knobs)
    for name, default in architecture.knobs.items():
        if name in settings:
            knobs[name] = _knob_value(name, settings[name], default)
    overrides: dict[str, Any] = {name: value for name, value in settings.items() if name in RECIPE_FIELDS}
    return knobs, replace(architecture.recipe, **overrides)


def build_network(architecture: Architecture, knobs: Mapping[str, Knob]) -> nn.Module:
    """Call `build` and return its network.

    Raises:
        ContractError: `build` raised, or returned something that is not an ``nn.Module`` on the CPU.
    """
    given = ", ".join(f"{name}={value}" for name, value in knobs.items())
    mend = f"Mend build, or the knobs it was given: {given}." if given else "Mend build."
    with _running(architecture.path, "build-raises", "build raised", mend):
        network = architecture.build(**knobs)
    if not isinstance(network, nn.Module):
        raise ContractError(
            "not-a-module",
            f"build returned {type(network).__name__}, not a torch.nn.Module.",
            where=architecture.path,
            mend="Return the network itself.",
        )
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.device.type != "cpu":
            wrong = f"build returned a network on the device {tensor.device}."
            raise ContractError("device", wrong, where=architecture.path, mend=mend_devices(wrong))
    return network


def blame(error: BaseException, path: str) -> str:
    """Return ``file:line`` of the innermost line of the plug-in at `path` that led to `error`, or an empty string."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return f"{path}:{lines[-1]}" if lines else ""


def _describe(error: BaseException) -> str:
    try:
        text = str(error).strip().partition("\n")[0]
    except Exception:  # an exception of the plug-in's own
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _summary(tree: ast.Module) -> str:
    return (ast.get_docstring(tree) or "").strip().partition("\n")[0]


def _parse(source: str, path: str) -> ast.Module:
    try:
        return ast.parse(source, filename=path)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        raise ContractError(
            "not-python",
            f"{path} is not Python: {getattr(error, 'msg', error)}.",
            where=f"{path}:{line}" if line else "",
            mend="Mend the syntax; `python -m harness new NAME` writes a working file.",
        ) from None


def _execute(source: str, path: str) -> ModuleType:
    name = f"harness_plugin_{hashlib.sha256(source.encode()).hexdigest()[:12]}"
    module = ModuleType(name)
    module.__file__ = path
    # Tracebacks and torch.export quote the plug-in's lines from here, also when only its text was shipped.
    linecache.cache[path] = (len(source), None, source.splitlines(keepends=True), path)
    sys.modules[name] = module
    mend = "Mend that line; a plug-in may import only what is installed here."
    with _running(path, "import-raises", f"{path} cannot be loaded:", mend):
        exec(compile(source, path, "exec"), module.__dict__)
    return module


@contextlib.contextmanager
def _running(path: str, rule: str, wrong: str, mend: str) -> Iterator[None]:
    """Run a plug-in's own code: whatever it raises, also ``SystemExit``, is its fault and blamed on its line."""
    try:
        with in_one_process(path), _settings_left_alone(path):
            yield
    except (ContractError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if ran_out_of_memory(error):
            raise OutOfMemory.of(path, error) from error
        said = _describe(error)
        raise ContractError(
            rule, f"{wrong} {said}", where=blame(error, path), mend=mend_devices(said) or mend
        ) from error


@contextlib.contextmanager
def in_one_process(path: str) -> Iterator[None]:
    """Run code of the plug-in at `path` that may not fork: the copy would train as well, into the same records.

    Raises:
        ContractError: it did, whatever it raised then; the copy was ended before it ran a line.
    """
    _hear_of_forks()
    _at_work.append(path)
    begun = len(_forks)
    try:
        yield
    finally:
        _at_work.pop()
        forks = _forks[begun:]
        del _forks[begun:]
        if forks:
            raise ContractError(
                "forks",
                "The file makes a copy of the process.",
                where=forks[0],
                legal="A plug-in builds a network, in the process it is run in.",
                mend="Take os.fork or multiprocessing out.",
            )


_at_work: list[str] = []
_forks: list[str] = []


@functools.cache
def _hear_of_forks() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_note_fork, after_in_child=_end_copy)


def _note_fork() -> None:
    for path in _at_work[-1:]:
        lines = [frame.lineno for frame in traceback.extract_stack() if frame.filename == path]
        _forks.append(f"{path}:{lines[-1]}" if lines else path)


def _end_copy() -> None:
    if _at_work:
        os._exit(0)


@contextlib.contextmanager
def _settings_left_alone(path: str) -> Iterator[None]:
    """Refuse a plug-in that changes a setting of the process: the next file, and every run's bits, would change."""
    before = {name: read() for name, (read, _) in _SETTINGS.items()}
    try:
        yield
    finally:
        changed = [name for name, (read, _) in _SETTINGS.items() if read() != before[name]]
        for name in changed:
            _SETTINGS[name][1](before[name])
    if changed:
        raise ContractError(
            "global-state",
            f"The file changes {', '.join(changed)} for everybody.",
            where=path,
            legal="A plug-in builds a network and leaves the settings of the process as they are.",
            mend="Take that line out; precision and threads are the harness's.",
        )


_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGTSTP") if hasattr(signal, name)]


def _put_streams_back(streams: tuple[Any, Any]) -> None:
    sys.stdout, sys.stderr = streams


def _put_handlers_back(handlers: Sequence[Any]) -> None:
    for number, handler in zip(_SIGNALS, handlers, strict=True):
        if handler is not None:  # that of faulthandler, which no Python code can put back
            signal.signal(number, handler)


_SETTINGS: Mapping[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's default device": (torch.get_default_device, lambda _: torch.set_default_device(None)),
    "torch's gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's threads": (torch.get_num_threads, torch.set_num_threads),
    "the working directory": (os.getcwd, os.chdir),
    "the standard streams": (lambda: (sys.stdout, sys.stderr), _put_streams_back),
    "what signals do": (lambda: [signal.getsignal(number) for number in _SIGNALS], _put_handlers_back),
}


def _refuse_local_imports(tree: ast.Module, path: str) -> None:
    """The file's text is its identity: what it takes from a file beside it could change unseen."""
    for node in ast.walk(tree):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules = [node.module]
        for module in modules:
            if not _is_installed(module.partition(".")[0]):
                raise ContractError(
                    "self-contained",
                    f"The file imports {module}, which is not an installed package.",
                    where=f"{path}:{node.lineno}",  # type: ignore[attr-defined]
                    legal="A plug-in is one file: it may import Python's own modules and what pip has installed.",
                    mend="Copy what it needs into the file.",
                )


def _is_installed(package: str) -> bool:
    """Whether a top-level package is Python's own, installed, or not there at all; the harness is no library."""
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # __main__
        return False
    if spec is None or package == "harness":
        return spec is None  # the import itself says best that there is no such module
    places = [*(spec.submodule_search_locations or ()), *([spec.origin] if spec.has_location else ())]
    return all(any(Path(place).resolve().is_relative_to(root) for root in _INSTALLED) for place in places)


_INSTALLED = {
    Path(place).resolve()
    for place in (
        *map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")),
        *site.getsitepackages(),
        site.getusersitepackages(),
    )
}
"""Where Python's own modules and pip's packages lie."""


def _top_level_names(parent: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield every name that the module itself is given, by whatever statement, with its line."""
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name, node.lineno
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.alias):
            yield node.asname or node.name, node.lineno
        yield from _top_level_names(node)


def _refuse_near_misses(tree: ast.Module, module: ModuleType, path: str, official: tuple[str, ...]) -> None:
    """A misspelt RECPIE would be ignored in silence: refuse it instead."""
    names = dict(_top_level_names(tree))
    for name, line in names.items():
        for meant in official:
            ratio = difflib.SequenceMatcher(None, name.casefold(), meant.casefold()).ratio()
            if name != meant and ratio >= 0.8:
                raise ContractError(
                    "near-miss",
                    f"'{name}' looks like a misspelt {meant} and would be ignored.",
                    where=f"{path}:{line}",
                    mend=f"Rename it to {meant}, or to something less alike.",
                )
        if name in official and not hasattr(module, name):
            raise ContractError(
                "no-value", f"{name} is named and given no value.", where=f"{path}:{line}", mend="Give it one."
            )


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
        elif isinstance(default, float) and not math.isfinite(default):
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
                legal="build takes keyword-only parameters with defaults: def build(*, width: int = 16).",
                mend="Rename or rewrite the parameter.",
            )
        knobs[name] = default
    return knobs


def _recipe(overrides: object, knobs: Mapping[str, Knob], path: str) -> Recipe:
    if not isinstance(overrides, dict):
        raise ContractError(
            "recipe",
            f"RECIPE is {type(overrides).__name__}, not a dict.",
            where=path,
            mend='Write RECIPE = {"lr": 0.05}, or leave it out.',
        )
    for name in overrides:
        if name not in RECIPE_FIELDS:
            raise ContractError(
                "recipe",
                f"RECIPE has no field {name!r}.",
                where=path,
                legal=f"Legal: {', '.join(RECIPE_FIELDS)}.",
                mend=did_you_mean(str(name), RECIPE_FIELDS) or f"Take {name!r} out of RECIPE.",
            )
    try:
        return Recipe(**overrides)
    except UsageError as error:
        raise ContractError(
            "recipe",
            f"RECIPE: {error.wrong}",
            where=path,
            legal=error.legal,
            mend=error.mend or "Mend that value of RECIPE.",
        ) from None


def _knob_value(name: str, value: Knob, default: Knob) -> Knob:
    if isinstance(default, float) and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not abs(value) <= sys.float_info.max:  # refuses NaN too
            raise UsageError(f"{name} cannot be {value}.", legal="Legal: finite numbers.")
        return float(value)
    if type(value) is not type(default):
        raise UsageError(
            f"{name} must be {type(default).__name__}, not {value!r}.",
            legal=f"Its default is {default!r}.",
        )
    return value
