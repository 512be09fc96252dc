"""The floor plan, as a rule about imports: nobody climbs, nobody goes in circles, nothing hides."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "harness"
FLOORS = (
    ("errors",),
    ("spec", "supervision"),
    (
        "plugins",
        "graph",
        "ledger",
        "audit",
        "anatomy",
        "arithmetic",
        "folding",
        "kernels",
        "layout",
        "capture",
        "data",
        "augment",
        "statistics",
        "journal",
        "backprop",
    ),
    ("evaluation", "training", "page", "plots", "records", "exchange", "tracking"),
    ("inspection", "experiment", "leaderboard", "plans", "report"),
    ("workers", "cluster", "tuning", "speed", "profiling", "doctor"),
    ("cli",),
)
HEIGHT = {room: (floor, place) for floor, rooms in enumerate(FLOORS) for place, room in enumerate(rooms)}
ONLY_ROOM = {"mlflow": "tracking", "optuna": "tuning", "dask": "cluster", "distributed": "cluster"}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def files() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if room_of(path) not in ("__init__", "__main__")]


def imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield (top-level package, room of the own package or '')."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the room they come from"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            yield parts[0], parts[1] if parts[0] == "harness" and parts[1:] != ["__version__"] else ""


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_from_below_or_before(path: Path) -> None:
    room = room_of(path)
    for package, other in imports(ast.parse(path.read_text())):
        if package == "harness" and other not in ("", room):
            assert HEIGHT[other] < HEIGHT[room], f"{room} imports {other}"


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_import_of_the_own_package_hides_in_a_function(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert "harness" not in {package for package, _ in imports(node)}, node.name


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_mlflow_optuna_and_dask_are_known_to_one_room_each(path: Path) -> None:
    for package, _ in imports(ast.parse(path.read_text())):
        assert ONLY_ROOM.get(package, room_of(path)) == room_of(path)


def test_every_room_has_its_place_on_the_plan() -> None:
    assert {room_of(path) for path in files()} == set(HEIGHT)


def test_nobody_made_a_junk_drawer() -> None:
    assert not [path for path in files() if path.stem in ("util", "utils", "helpers", "common", "misc")]
