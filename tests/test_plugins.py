"""The plug-in contract: what loads, what settles, what is refused and at which line."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from harness.errors import ContractError, UsageError
from harness.plugins import apply_settings, build_network, execute, load
from harness.plugins.architecture import RESERVED
from harness.plugins.running import blame
from harness.spec import RECIPE_FIELDS, Architecture, Recipe

SOURCE = '''"""A linear layer.

More about it.
"""
from torch import nn

RECIPE = {"lr": 0.05, "batch_size": 64}


def build(*, width: int = 10, slope: float = 0.5, bias: bool = True, kind: str = "plain") -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, width, bias=bias))
'''


@pytest.fixture
def architecture() -> Architecture:
    return execute(SOURCE, "somewhere/linear.py")


def refused(source: str, path: str = "here.py") -> ContractError:
    with pytest.raises(ContractError) as caught:
        execute(source, path)
    return caught.value


def test_file_loads_as_architecture(architecture: Architecture) -> None:
    assert architecture.name == "linear"
    assert architecture.path == "somewhere/linear.py"
    assert architecture.summary == "A linear layer."
    assert architecture.knobs == {"width": 10, "slope": 0.5, "bias": True, "kind": "plain"}
    assert architecture.recipe == Recipe(lr=0.05, batch_size=64)


def test_identity_is_sha256_of_file(tmp_path: Path) -> None:
    file = tmp_path / "linear.py"
    file.write_bytes(SOURCE.encode())
    assert load(file).sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_shipped_text_loads_like_the_file(tmp_path: Path) -> None:
    file = tmp_path / "linear.py"
    file.write_text(SOURCE)
    there, here = load(file), execute(SOURCE, str(file))
    assert (there.sha256, there.knobs, there.recipe, there.name) == (here.sha256, here.knobs, here.recipe, here.name)


def test_missing_recipe_means_default_recipe() -> None:
    source = SOURCE.replace('RECIPE = {"lr": 0.05, "batch_size": 64}', "")
    assert execute(source, "here.py").recipe == Recipe()


def test_build_without_knobs_is_legal() -> None:
    architecture = execute(
        '"""No knobs."""\nfrom torch import nn\n\ndef build():\n    return nn.Linear(1, 1)\n', "x.py"
    )
    assert architecture.knobs == {}
    assert isinstance(build_network(architecture, {}), nn.Linear)


def test_plug_in_may_define_dataclasses() -> None:
    source = SOURCE + "\n\nfrom dataclasses import dataclass\n\n@dataclass\nclass Size:\n    side: int = 28\n"
    assert execute(source, "here.py").name == "here"


def test_files_of_the_same_name_do_not_mix() -> None:
    first = execute(SOURCE, "a/linear.py")
    second = execute(SOURCE.replace("width: int = 10", "width: int = 20"), "b/linear.py")
    assert build_network(first, first.knobs)[1].out_features == 10  # type: ignore[index]
    assert build_network(second, second.knobs)[1].out_features == 20  # type: ignore[index]


def test_missing_file_suggests_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "s6_gap.py").write_text(SOURCE)
    with pytest.raises(UsageError, match="There is no file") as caught:
        load(tmp_path / "s6_gpa.py")
    assert caught.value.hint == f"Did you mean '{tmp_path / 's6_gap.py'}'?"


def test_bare_name_suggests_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "architectures").mkdir()
    (tmp_path / "architectures" / "net.py").write_text(SOURCE)
    with pytest.raises(UsageError) as caught:
        load("net")
    assert caught.value.hint == f"Did you mean '{Path('architectures', 'net.py')}'?"


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no file"):
        load(tmp_path / "nowhere" / "s6_gap.py")


def test_folder_is_no_architecture(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        load(tmp_path)


def test_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "linear.py"
    file.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ContractError, match="UTF-8"):
        load(file)


def test_null_bytes_are_refused() -> None:
    assert refused('"""x"""\n\0').rule == "not-python"


@pytest.mark.parametrize("name", ["RECPIE", "Recipe", "recipe", "RECIPES", "REICPE", "_RECIPE"])
def test_near_miss_of_recipe_is_refused(name: str) -> None:
    error = refused(SOURCE.replace("RECIPE =", f"{name} ="))
    assert error.rule == "near-miss"
    assert error.where == "here.py:7"
    assert f"'{name}'" in error.message


@pytest.mark.parametrize("name", ["biuld", "Build", "buidl", "builds", "build_"])
def test_near_miss_of_build_is_refused(name: str) -> None:
    error = refused(SOURCE.replace("def build", f"def {name}"))
    assert (error.rule, error.where) == ("near-miss", "here.py:10")


def test_near_miss_beside_right_name_is_refused() -> None:
    assert refused(SOURCE + "\nRECPIE = {}\n").rule == "near-miss"
    assert refused(SOURCE + "\nRECPIE: dict = {}\n").rule == "near-miss"


@pytest.mark.parametrize("name", ["block", "Network", "WIDTHS", "guild_of_layers", "build_block", "RECIPROCAL"])
def test_other_names_are_no_near_misses(name: str) -> None:
    assert execute(f"{SOURCE}\n{name} = 1\n", "here.py").name == "here"


def test_near_miss_in_top_level_block_is_refused() -> None:
    error = refused(SOURCE + '\ntry:\n    if True:\n        RECPIE = {"lr": 1.0}\nfinally:\n    pass\n')
    assert (error.rule, error.where) == ("near-miss", "here.py:15")


@pytest.mark.parametrize("line", ["import beside", "from beside import WIDTH", "def f():\n    import beside.inner"])
def test_neighbouring_file_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    (tmp_path / "beside.py").write_text("WIDTH = 4")
    monkeypatch.syspath_prepend(tmp_path)
    error = refused(f"{SOURCE}\n{line}\n")
    assert (error.rule, error.where.partition(":")[0]) == ("self-contained", "here.py")


def test_importing_the_harness_is_refused() -> None:
    assert refused(f"{SOURCE}\nfrom harness.spec import BUDGET\n").rule == "self-contained"


def test_installed_packages_can_be_imported() -> None:
    lines = "import math, sys, random, importlib.util, json.decoder\nimport numpy as np\nfrom torchvision import ops\n"
    assert execute(SOURCE + lines, "here.py").name == "here"


@pytest.mark.parametrize(
    "line",
    [
        "(RECPIE := {})",
        "for Recipe in (): pass",
        "from os import path as buid",
        "import io\nwith io.StringIO() as RECIPES: pass",
    ],
)
def test_near_miss_by_any_statement_is_refused(line: str) -> None:
    assert refused(f"{SOURCE}\n{line}\n").rule == "near-miss"


def test_official_name_without_value_is_refused() -> None:
    source = SOURCE.replace('RECIPE = {"lr": 0.05, "batch_size": 64}', "RECIPE: dict")
    assert refused(source).rule == "no-value"


def test_near_misses_in_functions_are_ignored() -> None:
    assert execute(SOURCE.replace("    return", "    recipe = 1\n    return"), "here.py").name == "here"


@pytest.mark.parametrize(
    ("signature", "wrong"),
    [
        ("width: int = 4", "by position"),
        ("width: int = 4, /", "by position"),
        ("*widths: int", "catch-all"),
        ("**widths: int", "catch-all"),
        ("*, width: int", "has no default"),
        ("*, width: object = None", "defaults to None"),
        ("*, width: object = [4]", "defaults to [4]"),
        ("*, width: float = 1e999", "is finite"),
        *((f"*, {name}: int = 1", "recipe field") for name in RECIPE_FIELDS),
        *((f"*, {name}: int = 1", "uses itself") for name in RESERVED),
    ],
)
def test_invalid_build_signature_is_refused(signature: str, wrong: str) -> None:
    error = refused(f'"""x"""\n\n\ndef build({signature}):\n    return None\n')
    assert (error.rule, error.where) == ("knobs", "here.py:4")
    assert wrong in error.message


def test_unknown_recipe_field_suggests_a_name() -> None:
    error = refused(SOURCE.replace('"batch_size"', '"bacth_size"'))
    assert error.rule == "recipe"
    assert error.hint == "Did you mean 'batch_size'?"


@pytest.mark.parametrize("value", ["-1", "float('nan')", "'fast'", "None", "True", "[0.1]"])
def test_illegal_recipe_value_is_refused(value: str) -> None:
    assert refused(SOURCE.replace('"lr": 0.05', f'"lr": {value}')).rule == "recipe"


def test_import_error_names_its_line() -> None:
    error = refused('"""x"""\n\nVALUE = 1 / 0\n')
    assert (error.rule, error.where) == ("import-raises", "here.py:3")
    assert "ZeroDivisionError" in error.message


def test_build_error_names_innermost_line() -> None:
    source = '"""x"""\nimport json\n\ndef deep():\n    json.loads("{")\n\ndef build():\n    deep()\n'
    architecture = execute(source, "deep.py")
    with pytest.raises(ContractError) as caught:
        build_network(architecture, {})
    assert (caught.value.rule, caught.value.where) == ("build-raises", "deep.py:5")


def test_unrelated_error_names_no_line() -> None:
    assert blame(ValueError("never raised"), "here.py") == ""


@pytest.mark.parametrize("value", ["None", "nn.Linear", "lambda x: x", "(nn.Linear(1, 1),)"])
def test_build_must_return_a_module(value: str) -> None:
    source = f'"""x"""\nfrom torch import nn\n\ndef build():\n    return {value}\n'
    with pytest.raises(ContractError) as caught:
        build_network(execute(source, "here.py"), {})
    assert caught.value.rule == "not-a-module"


def test_settings_reach_knobs_and_recipe(architecture: Architecture) -> None:
    knobs, recipe = apply_settings(architecture, {"width": 12, "momentum": 0.8})
    assert knobs == {**architecture.knobs, "width": 12}
    assert recipe == Recipe(lr=0.05, batch_size=64, momentum=0.8)


def test_no_settings_keep_the_defaults(architecture: Architecture) -> None:
    assert apply_settings(architecture, {}) == (architecture.knobs, architecture.recipe)


def test_settings_leave_architecture_unchanged(architecture: Architecture) -> None:
    apply_settings(architecture, {"width": 12, "lr": 0.2})
    assert architecture.knobs["width"] == 10
    assert architecture.recipe.lr == 0.05


@pytest.mark.parametrize(("name", "meant"), [("widht", "width"), ("learning_rat", ""), ("batchsize", "batch_size")])
def test_unknown_setting_suggests_legal_ones(architecture: Architecture, name: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"no knob or recipe field '{name}'") as caught:
        apply_settings(architecture, {name: 1})
    assert caught.value.hint == (f"Did you mean '{meant}'?" if meant else "")
    assert all(name in caught.value.allowed for name in ("width", "slope", *RECIPE_FIELDS))


@pytest.mark.parametrize(
    ("name", "value"), [("width", 4.0), ("width", "4"), ("width", True), ("slope", "1"), ("bias", 1), ("kind", 3)]
)
def test_knob_keeps_type_of_its_default(architecture: Architecture, name: str, value: int) -> None:
    with pytest.raises(UsageError, match=f"{name} must be"):
        apply_settings(architecture, {name: value})


def test_float_knob_accepts_integer(architecture: Architecture) -> None:
    knobs, _ = apply_settings(architecture, {"slope": 2})
    assert isinstance(knobs["slope"], float)
    assert knobs["slope"] == 2.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 10**400])
def test_float_knob_is_finite(architecture: Architecture, value: float) -> None:
    with pytest.raises(UsageError, match="slope cannot be"):
        apply_settings(architecture, {"slope": value})


def test_out_of_range_recipe_value_is_refused(architecture: Architecture) -> None:
    with pytest.raises(UsageError, match="lr"):
        apply_settings(architecture, {"lr": -1.0})


@given(st.text(max_size=60))
def test_arbitrary_text_is_refused_with_file_name(text: str) -> None:
    error = refused(text)
    assert "here.py" in error.message or "here.py" in error.where


@given(width=st.integers(1, 20))
def test_build_receives_the_knobs(width: int) -> None:
    architecture = execute(SOURCE, "here.py")
    knobs, _ = apply_settings(architecture, {"width": width})
    answers = build_network(architecture, knobs)(torch.zeros(2, 1, 28, 28))
    assert answers.shape == (2, width)


def test_byte_order_mark_and_crlf_are_read(tmp_path: Path) -> None:
    text = '"""Doc."""\nfrom torch import nn\n\n\ndef build():\n    return nn.Linear(1, 1)\n'
    file = tmp_path / "windows.py"
    file.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert load(file).summary == "Doc."
