"""The layers of the package, as a rule about imports: each layer imports lower ones, and no import is hidden."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "harness"
LAYERS = (
    {"errors"},
    {"spec", "statistics", "markdown", "watchdog", "confine", "seeds"},
    {"events", "backprop", "data", "sentences"},
    {"audit", "plugins"},
    {"submission"},
    {"training"},
    {"journal"},
    {"plots"},
    {"tracking", "leaderboard"},
    {"runs"},
    {"workers", "speed"},
    {"tuning"},
    {"doctor", "api"},
    {"cli"},
)
LAYER = {part: height for height, layer in enumerate(LAYERS) for part in layer}
ONLY_IN = {"mlflow": "tracking", "optuna": "tuning", "dask": "workers", "distributed": "workers"}
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE or not path.stem.startswith("__")]


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield the dotted name of everything that is imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide their package"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(path: Path) -> Iterator[str]:
    """Yield the dotted names below `harness` that a file imports."""
    for name in imports(ast.parse(path.read_text())):
        if name.startswith("harness.") and name != "harness.__version__":
            yield name.removeprefix("harness.")


def module_of(name: str) -> str:
    """Return the module that an import below `harness` reads: the longest part of its name that is a file."""
    parts = name.split(".")
    while not (PACKAGE.joinpath(*parts).with_suffix(".py").exists() or PACKAGE.joinpath(*parts).is_dir()):
        parts.pop()
    return ".".join(parts)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
class TestFile:
    def test_imports_only_lower_layers(self, path: Path) -> None:
        for other in (name.partition(".")[0] for name in own_imports(path)):
            assert other == part_of(path) or LAYER[other] < LAYER[part_of(path)], f"imports {other}"

    def test_hides_no_import_of_package(self, path: Path) -> None:
        for node in ast.walk(ast.parse(path.read_text())):
            is_lazy_face = path.stem == "__init__" and getattr(node, "name", "") == "__getattr__"
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not is_lazy_face:
                assert not [name for name in imports(node) if name.startswith("harness")], node.name

    def test_loads_no_module_by_name(self, path: Path) -> None:
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        loaded = [ast.unparse(call) for call in calls if "import_module" in ast.unparse(call.func)]
        assert path == PACKAGE / "cli" / "__init__.py" or not [call for call in loaded if "harness" in call]

    def test_imports_no_library_of_another_package(self, path: Path) -> None:
        for name in imports(ast.parse(path.read_text())):
            assert ONLY_IN.get(name.partition(".")[0], part_of(path)) == part_of(path)

    def test_does_not_import_its_own_package(self, path: Path) -> None:
        if path.stem != "__init__":
            assert part_of(path) not in {module_of(name) for name in own_imports(path)} - {path.stem}


@pytest.mark.parametrize("package", sorted({part_of(path) for path in FILES if path.parent != PACKAGE}))
def test_modules_of_package_form_no_cycle(package: str) -> None:
    files = [path for path in FILES if part_of(path) == package and path.stem != "__init__"]
    reads = {
        path.stem: {module_of(name).split(".")[1] for name in own_imports(path) if name.startswith(f"{package}.")}
        for path in files
    }
    while free := [stem for stem, others in reads.items() if not others & reads.keys()]:
        for stem in free:
            del reads[stem]
    assert not reads


def test_every_part_has_layer() -> None:
    assert {part_of(path) for path in FILES} == LAYER.keys()


def test_no_module_is_called_util() -> None:
    assert not [path for path in FILES if path.stem in ("util", "utils", "helpers", "common", "misc")]
