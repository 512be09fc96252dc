"""A disk that is full or read-only: the last good state is kept, and the same command resumes when there is room."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.journal import Journal

NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]


def has_namespaces() -> bool:
    try:
        mount = [*NAMESPACE, "sh", "-c", "mount -t tmpfs -o size=1m tmpfs /mnt"]
        return subprocess.run(mount, capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(not has_namespaces(), reason="this machine does not let a user mount a small disk")
@pytest.mark.parametrize(("fault", "named"), [("full", "No space left"), ("read-only", "Read-only file system")])
def test_run_resumes_when_disk_is_writable_again(fault: str, named: str, tmp_path: Path) -> None:
    driver = Path(__file__).with_name("small_disk.py")
    place = tmp_path / "disk"
    place.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(driver.parent.parent)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [*NAMESPACE, sys.executable, str(driver), str(place), fault]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said, _, last = done.stdout.strip().rpartition("\n")
    found = json.loads(last)
    assert found["code"] == UsageError.exit_code
    assert found["left"] in (["running"], ["interrupted"])
    assert named in said
    assert "run the same command again" in said
    assert "Traceback" not in said
    assert "resumes after epoch" in said
    assert found["code_again"] == 0
    assert found["states"] == ["finished"]
    assert found["parts"] == []


@pytest.mark.quick
def test_failed_write_leaves_no_partial_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    journal = Journal.create("net-s0")
    journal.append("started", job={}, padding="x" * 940)
    before = journal.events_file.read_bytes()
    assert 1000 < len(before) < 1024  # where the second line meets the end of what the process may write
    limited = f"ulimit -f 1; exec {sys.executable} -c 'from harness.journal import Journal; from pathlib import Path; "
    limited += f'Journal(Path("{journal.folder}")).append("epoch", number=1)\''
    done = subprocess.run(["bash", "-c", f"trap '' XFSZ; {limited}"], capture_output=True, text=True)
    assert "File too large" in done.stderr
    assert journal.events_file.read_bytes() == before
    journal.append("epoch", number=1)
    record = journal.read()
    assert record
    assert len(record.epochs) == 1
