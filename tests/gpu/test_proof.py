"""The proof in its CPU form: each stage comes to its end and finds what is true of the code on any device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pack
import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent

Result = dict[str, Any]


@pytest.fixture
def checkout(workplace: Path) -> Path:
    """Stand in a folder that looks like a checkout of a machine without MLflow, with its own records."""
    for name in ("architectures", "studies"):
        (workplace / name).symlink_to(ROOT / name)
    (workplace / "mlflow.py").write_text("raise ModuleNotFoundError('No module named mlflow', name='mlflow')")
    return workplace


def python(script: str, *arguments: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OUT": "", "PYTHONPATH": f".{os.pathsep}{ROOT}"}
    command = [sys.executable, "-W", "ignore", str(HERE / script), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def prove(stages: Sequence[str], *, seeds: int) -> dict[str, list[Result]]:
    """Run stages of the proof, and return the results of each."""
    options = ["--device", "cpu", "--dataset", "digits", "--epochs", "2", "--trials", "2", "--seconds", "3600"]
    python("proof.py", *options, "--seeds", str(seeds), *stages)
    found: dict[str, list[Result]] = {}
    for line in Path("proof/results.jsonl").read_text().splitlines():
        result = json.loads(line)
        assert "broke" not in result, result["broke"]
        assert "skipped" not in result
        found.setdefault(result["stage"], []).append(result)
    return found


def codes(results: Sequence[Result]) -> list[int]:
    return [code for result in results for code in _listed(result["code"])]


def _listed(code: int | list[int]) -> list[int]:
    return code if isinstance(code, list) else [code]


def test_runs_repeat_bit_for_bit(checkout: Path) -> None:
    found = prove(["environment", "gates", "digits", "bits", "resume", "seeds", "export"], seeds=2)
    assert found["environment"][0]["gpu"] is None
    (gates,) = found["gates"]
    assert gates["passed"] == gates["of"] == 1
    assert codes(found["digits"]) == [7]  # recorded, and no MLflow was reached

    assert [result["same"] for result in found["bits"]] == [True]
    assert [result["same_losses"] for result in found["bits"]] == [True]
    assert [result["same"] for result in found["resume"]] == [True]
    assert [(result["killed_after"], result["went_on"]) for result in found["resume"]] == [(1, True)]

    (seeds,) = found["seeds"]
    assert (seeds["finished"], seeds["same_as_alone"]) == (2, [True])
    assert {*codes([*found["bits"], *found["resume"], seeds, *found["export"]])} <= {0, 7}
    with zipfile.ZipFile("proof/runs.zip") as runs:
        assert any("s6_gap" in name for name in runs.namelist())
    assert not list(Path("proof").glob("*.part"))


def test_record_stages_complete(checkout: Path) -> None:
    found = prove(["profile", "speed", "records", "tune"], seeds=1)
    assert {*codes([result for results in found.values() for result in results])} <= {0, 7}
    assert "convolution" in found["profile"][0]["table"]
    assert Path("proof/profile.json.gz").stat().st_size
    assert found["speed"][0]["found"]["harness"][0] > 0
    assert [(result["finished"], len(result["scores"])) for result in found["records"]] == [(1, 1)]
    assert found["export"][-1]["bytes"] > 0


def test_bench_parts_report_without_errors(checkout: Path) -> None:
    said = python("bench.py", "ceilings", "grouped", "stacked", "augment", "--device", "cpu", "--dataset", "digits")
    found = [json.loads(line) for line in said.splitlines()]
    assert not [result for result in found if "error" in result]
    assert {"copy", "augmentation"} <= {result.get("what") for result in found}
    assert {"grouped", "one after the other"} <= {result.get("how") for result in found}
    assert [result["stacked"] for result in found if "stacked" in result] == [2]
    assert found[-1]["same_bits"] is True


@pytest.mark.quick
def test_packed_data_is_compressed(tmp_path: Path) -> None:
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-labels-idx1-ubyte").write_bytes(bytes(1000))
    pack.pack(tmp_path / ".gpu", tmp_path / "data", wheels=())
    packed = tmp_path / ".gpu" / "data" / "MNIST" / "raw" / "train-labels-idx1-ubyte.gz"
    assert packed.stat().st_size < 1000
    assert (tmp_path / ".gpu" / ".gitignore").read_text() == "*\n"
