"""Read a plug-in's text, parse it and execute it as a module."""

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
from harness.plugins.running import running_plugin


def read_source(path: str | Path, what: str) -> str:
    """Return the text of the file at `path`; `what` says what kind of file is expected, for messages.

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
    """Execute the text of a plug-in.

    Args:
        source: the text.
        path: file name for messages.
        official: the global names that the harness reads.

    Returns:
        The module, and the first line of its docstring.

    Raises:
        ContractError: the text is not Python, raises, imports a local file, has no docstring or a misspelt name.
    """
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
            hint='Start the file with one line that describes it: """..."""',
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
            hint="Fix the syntax; `python -m harness new NAME` writes a working file.",
        ) from None


def _execute(source: str, path: str) -> ModuleType:
    name = f"harness_plugin_{hashlib.sha256(source.encode()).hexdigest()[:12]}"
    module = ModuleType(name)
    module.__file__ = path
    # Tracebacks and torch.export read the plug-in's lines from here, also on a worker that has only its text.
    linecache.cache[path] = (len(source), None, source.splitlines(keepends=True), path)
    sys.modules[name] = module
    hint = "Fix that line; a plug-in may import only what is installed here."
    with running_plugin(path, "import-raises", f"{path} cannot be loaded:", hint):
        exec(compile(source, path, "exec"), module.__dict__)
    return module


def _refuse_local_imports(tree: ast.Module, path: str) -> None:
    """Refuse imports of local files: the text identifies the plug-in, and another file could change unnoticed."""
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
    """Whether a top-level package is Python's own, installed, or missing; False for this package itself."""
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # __main__
        return False
    if spec is None or package == "harness":
        return spec is None  # for a missing module the import raises the better message
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
"""Folders of Python's own modules and of packages installed by pip."""


def _top_level_names(parent: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield each name that is assigned, defined or imported at the top level of a module, with its line."""
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
    """Refuse a misspelt name such as RECPIE, which would otherwise be ignored."""
    names = dict(_top_level_names(tree))
    for name, line in names.items():
        for meant in official:
            ratio = difflib.SequenceMatcher(None, name.casefold(), meant.casefold()).ratio()
            if name != meant and ratio >= 0.8:
                raise ContractError(
                    "near-miss",
                    f"'{name}' looks like a misspelt {meant} and would be ignored.",
                    where=f"{path}:{line}",
                    hint=f"Rename it to {meant}, or choose a less similar name.",
                )
        if name in official and not hasattr(module, name):
            raise ContractError("no-value", f"{name} has no value.", where=f"{path}:{line}", hint="Assign one.")
