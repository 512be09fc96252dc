"""A plug-in's text: read, parsed and executed as a module of its own."""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib.util
import linecache
import site
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from harness.errors import ContractError, UsageError, did_you_mean
from harness.plugins.sandbox import running_plugin


def read_source(path: str | Path, what: str) -> str:
    """Return the text of the file at `path`, which is to be `what`.

    Raises:
        UsageError: there is no such file, or it cannot be read.
        ContractError: it is not UTF-8 text.
    """
    file = Path(path)
    if file.is_dir():
        raise UsageError(f"{path} is a folder.", hint=f"Give its files: {file}/*.py")
    if not file.is_file():
        near = sorted(f"{found}" for found in file.parent.glob("*.py")) if file.parent.is_dir() else []
        meant = [
            place for place in Path().glob(f"*/{file.stem}.py") if place.parent.name in ("architectures", "studies")
        ]
        raise UsageError(
            f"There is no file {path}.",
            allowed=f"Give the path of {what}.",
            hint=f"Did you mean '{meant[0]}'?" if meant else did_you_mean(str(path), near),
        )
    try:
        return file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError:
        raise ContractError("not-python", f"{path} is not UTF-8 text.", hint="Give a Python source file.") from None


def load_module(source: str, path: str, official: tuple[str, ...]) -> tuple[ModuleType, str]:
    """Execute a plug-in whose `official` names the harness reads; return it and its docstring's first line."""
    tree = _parse(source, path)
    _refuse_local_imports(tree, path)
    module = _execute(source, path)
    _refuse_near_misses(tree, module, path, official)
    summary = summary_of(tree)
    if not summary:
        raise ContractError(
            "docstring",
            f"{path} has no docstring.",
            where=path,
            hint='Begin the file with one line that says what it is: """..."""',
        )
    return module, summary


def summary_of(tree: ast.Module) -> str:
    """Return the first line of the docstring, or an empty string."""
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
            hint="Mend the syntax; `python -m harness new NAME` writes a working file.",
        ) from None


def _execute(source: str, path: str) -> ModuleType:
    name = f"harness_plugin_{hashlib.sha256(source.encode()).hexdigest()[:12]}"
    module = ModuleType(name)
    module.__file__ = path
    # Tracebacks and torch.export quote the plug-in's lines from here, also when only its text was shipped.
    linecache.cache[path] = (len(source), None, source.splitlines(keepends=True), path)
    sys.modules[name] = module
    hint = "Mend that line; a plug-in may import only what is installed here."
    with running_plugin(path, "import-raises", f"{path} cannot be loaded:", hint):
        exec(compile(source, path, "exec"), module.__dict__)
    return module


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
                    allowed="A plug-in is one file: it may import Python's own modules and what pip has installed.",
                    hint="Copy what it needs into the file.",
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
                    hint=f"Rename it to {meant}, or to something less alike.",
                )
        if name in official and not hasattr(module, name):
            raise ContractError(
                "no-value", f"{name} is named and given no value.", where=f"{path}:{line}", hint="Give it one."
            )
