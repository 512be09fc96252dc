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

pytestmark = pytest.mark.slow

Result = dict[str, Any]


@pytest.fixture
def checkout(workplace: Path) -> Path:
    """Stand in a folder that looks like a checkout, with its own records."""
    for name in ("architectures", "studies"):
        (workplace / name).symlink_to(ROOT / name)
    return workplace


def python(script: str, *arguments: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OUT": "", "PYTHONPATH": str(ROOT)}
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


def test_runs_repeat_to_the_bit_alone_after_a_kill_and_beside_others(checkout: Path) -> None:
    found = prove(["environment", "gates", "digits", "bits", "resume", "seeds", "export"], seeds=2)
    assert found["environment"][0]["gpu"] is None
    (gates,) = found["gates"]
    assert gates["passed"] == gates["of"] == 2
    assert codes(found["digits"]) == [0]

    assert [result["same"] for result in found["bits"]] == [True, True]
    assert [result["same_losses"] for result in found["bits"]] == [True, True]
    assert [result["same"] for result in found["resume"]] == [True, True]
    assert [(result["killed_after"], result["went_on"]) for result in found["resume"]] == [(1, True)] * 2

    (seeds,) = found["seeds"]
    assert (seeds["finished"], seeds["same_as_alone"]) == (2, [True])
    assert {*codes([*found["bits"], *found["resume"], seeds, *found["export"]])} <= {0, 7}
    with zipfile.ZipFile("proof/runs.zip") as runs:
        assert any("s6_gap" in name for name in runs.namelist())
    assert not list(Path("proof").glob("*.part"))


def test_the_stages_that_make_records_come_to_their_end(checkout: Path) -> None:
    found = prove(["profile", "speed", "records", "tune"], seeds=1)
    assert {*codes([result for results in found.values() for result in results])} <= {0, 7}
    assert "convolution" in found["profile"][0]["table"]
    assert Path("proof/profile.json.gz").stat().st_size
    assert found["speed"][0]["found"]["harness"][0] > 0
    assert [(result["finished"], len(result["scores"])) for result in found["records"]] == [(1, 1)] * 2
    assert found["export"][-1]["bytes"] > 0


@pytest.mark.parametrize("part", ["ceilings", "augment", "grouped", "stacked"])
def test_a_part_of_the_bench_finds_something_and_nothing_fails(part: str, checkout: Path) -> None:
    said = python("bench.py", part, "--device", "cpu", "--dataset", "digits")
    found = [json.loads(line) for line in said.splitlines()]
    assert found
    assert not [result for result in found if "error" in result]
    if part == "augment":
        assert found[-1]["same_bits"] is True


def test_what_is_packed_is_enough_to_load_the_images(tmp_path: Path) -> None:
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-labels-idx1-ubyte").write_bytes(bytes(1000))
    pack.pack(tmp_path / ".gpu", tmp_path / "data", wheels=())
    packed = tmp_path / ".gpu" / "data" / "MNIST" / "raw" / "train-labels-idx1-ubyte.gz"
    assert packed.stat().st_size < 1000
    assert (tmp_path / ".gpu" / ".gitignore").read_text() == "*\n"
