"""The server of docs/deploy.md, started by its two commands, and several users that log to it at once."""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import TINY
from mlflow import MlflowClient
from preloaded import shared

from harness.errors import TrackerError

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy"
PASSWORD = "secret"
PEOPLE = 4
SEEDS = 2
SLOWEST_START = 120
"""Seconds in which the server makes its tables and answers, beside three other tests."""

INITDB = shutil.which("initdb") or next(Path("/usr/lib/postgresql").glob("*/bin/initdb"), None)
EVERYWHERE = f"{os.environ['PATH']}:/usr/sbin:/sbin"
AS_ANOTHER = (
    [shutil.which("runuser", path=EVERYWHERE) or "runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
)
"""PostgreSQL refuses to run as root."""

pytestmark = [
    pytest.mark.skipif(INITDB is None, reason="PostgreSQL is not installed (Debian: apt-get install postgresql)"),
    pytest.mark.skipif(importlib.util.find_spec("psycopg") is None, reason="needs pip install 'harness[server]'"),
]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder of the database's user, whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as made:
        scripts = Path(shutil.copytree(DEPLOY, f"{made}/deploy"))
        os.chmod(made, 0o755)
        state = Path(made) / "state"
        if AS_ANOTHER:
            state.mkdir()
            shutil.chown(state, "postgres")
        database = [*AS_ANOTHER, "bash", str(scripts / "database.sh"), str(state)]
        subprocess.run(database, check=True, cwd=made)
        try:
            subprocess.run(database, check=True, cwd=made)  # it is there already, and runs
            yield state
        finally:
            subprocess.run([*database, "stop"], check=True, cwd=made)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    port = free_port()
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = ["bash", str(DEPLOY / "server.sh"), str(folder), str(port)]
    with open(folder.parent / "server.log", "wb") as log:
        process = subprocess.Popen(command, cwd=folder.parent, env=environment, stdout=log, stderr=log, process_group=0)
    address = f"http://127.0.0.1:{port}"
    until = time.monotonic() + SLOWEST_START
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
            if answer.status == 200:
                break
        assert time.monotonic() < until, (folder.parent / "server.log").read_text()
        time.sleep(0.5)
    try:
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def front(folder: Path, server: str) -> Iterator[str]:
    """The address of the proxy in front of the server; user anna has a password."""
    if not all(shutil.which(needed, path=EVERYWHERE) for needed in ("nginx", "openssl")):
        pytest.skip("nginx or openssl is not installed (Debian: apt-get install nginx-light openssl)")
    port = free_port()
    hashed = subprocess.run(["openssl", "passwd", "-6", PASSWORD], capture_output=True, text=True, check=True).stdout
    (folder / "passwords").write_text(f"anna:{hashed}")
    if AS_ANOTHER:
        shutil.chown(folder / "passwords", "postgres")
    command = ["bash", str(folder.parent / "deploy" / "front.sh"), str(folder), str(port), server.rpartition(":")[2]]
    process = subprocess.Popen([*AS_ANOTHER, *command], cwd=folder.parent, process_group=0)
    try:
        until = time.monotonic() + 60
        while not (folder / "nginx" / "pid").exists():
            assert time.monotonic() < until, "nginx did not start"
            time.sleep(0.1)
        yield f"https://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def test_only_the_owner_can_open_the_database(folder: Path) -> None:
    (socket_file,) = (found for found in folder.rglob(".s.PGSQL.*") if found.is_socket())
    assert socket_file.parent == folder / "database"
    assert socket_file.parent.stat().st_mode & 0o077 == 0


def test_concurrent_users_lose_no_run(server: str, tmp_path: Path) -> None:
    people = []
    for number in range(PEOPLE):
        place = tmp_path / str(number)
        place.mkdir()
        (place / "tiny.py").write_text(TINY)
        command = ["-m", "harness", "run", "tiny.py", "--dataset", "digits", "--seed", str(number), "--seeds", "2"]
        environment = {**os.environ, "MLFLOW_TRACKING_URI": server, "OMP_NUM_THREADS": "1"}
        people.append(shared().start(command, place, environment))
    said = [person.communicate()[0] for person in people]
    assert [person.wait() for person in people] == [0] * PEOPLE, said
    client = MlflowClient(server)
    experiment = client.get_experiment_by_name("digits")
    assert experiment
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    scored = [run for run in runs if "test/final_accuracy" in run.data.metrics and run.data.params.get("seed")]
    assert len(scored) == PEOPLE * SEEDS
    assert all(client.list_artifacts(run.info.run_id) for run in scored)
    assert len(client.get_metric_history(scored[0].info.run_id, "test/accuracy")) == 2


def test_proxy_requires_a_password(front: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text(TINY)
    certificate = folder / "certificate.pem"
    distrusting = {**os.environ, "MLFLOW_TRACKING_URI": front, "OMP_NUM_THREADS": "1"}
    stranger = {**distrusting, "MLFLOW_TRACKING_SERVER_CERT_PATH": str(certificate)}
    anna = {**stranger, "MLFLOW_TRACKING_USERNAME": "anna", "MLFLOW_TRACKING_PASSWORD": PASSWORD}

    def harness(*arguments: str, env: dict[str, str]) -> tuple[int, str]:
        process = shared().start(["-m", "harness", *arguments], tmp_path, env)
        said, _ = process.communicate()
        return process.wait(), " ".join(said.split())

    code, said = harness("run", "tiny.py", "--dataset", "digits", env=stranger)
    assert code == TrackerError.exit_code
    assert "cannot be updated: it rejects the user name or password. Training continues." in said
    assert "it rejects the user name or password" in said.partition("error: ")[2]
    assert "MLFLOW_TRACKING_PASSWORD" in said
    assert "its certificate is not trusted here" in harness("sync", env=distrusting)[1]
    code, said = harness("sync", env=anna)
    assert code == 0, said
    trusting = ssl.create_default_context(cafile=str(certificate))
    token = base64.b64encode(f"anna:{PASSWORD}".encode()).decode()

    def answer(**headers: str) -> int:
        asked = urllib.request.Request(f"{front}/health", headers=headers)
        try:
            with urllib.request.urlopen(asked, context=trusting) as answered:
                return int(answered.status)
        except urllib.error.HTTPError as refused:
            return refused.code

    assert answer() == 401
    assert answer(Authorization=f"Basic {token}") == 200
    assert answer(Authorization=f"Basic {token}", Origin=front) == 200
    assert answer(Authorization=f"Basic {token}", Origin="https://another.example") == 403
