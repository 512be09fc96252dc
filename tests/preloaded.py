"""Start Python processes that have everything imported: forks of one process that has done nothing but import.

Importing torch, MLflow and the rest takes a process six seconds, which most tests of whole processes have no use for.
The lower half is the process that is forked; tests use `Preloaded`.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NoReturn, TextIO

MODULES = (
    *(f"harness.cli.{command}" for command in ("run", "check", "tune", "sync", "speed", "exit", "isolate")),
    *("harness.workers.cluster", "distributed.cli.dask_scheduler", "distributed.cli.dask_worker"),
    *("mlflow.pytorch", "mlflow.store.tracking.sqlalchemy_store", "mlflow.store.artifact.local_artifact_repo"),
    *("matplotlib.backends.backend_agg", "seaborn", "optuna", "scipy.stats", "sklearn.datasets"),
    *("torch.export._trace", "torch._export.converter"),
)


class Process:
    """A process that was forked; behaves as a `subprocess.Popen` whose output and errors are one pipe."""

    def __init__(self, pid: int, output: TextIO, status: TextIO) -> None:
        self.pid, self.stdout = pid, output
        self.returncode: int | None = None
        self._status = status

    def wait(self) -> int:
        """Return the exit code when it has ended; minus the signal that ended it."""
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(int(self._status.readline()))
            self._status.close()
        return self.returncode

    def communicate(self) -> tuple[str, None]:
        """Return what it says from here on, when it has ended."""
        said = self.stdout.read()
        self.wait()
        return said, None

    def send_signal(self, number: int) -> None:
        """Signal it."""
        os.kill(self.pid, number)


class Preloaded:
    """The process that is forked.

    Args:
        environment: what it imports with; its forks are given environments of their own.
        modules: what it imports, as far as it is installed.
    """

    def __init__(self, environment: Mapping[str, str], modules: Sequence[str] = MODULES) -> None:
        if sys.platform != "linux":  # system libraries of others do not survive a fork
            return
        ours, theirs = socket.socketpair()
        with theirs:
            # As -c: a crash names the line of a plug-in, for which a line of this file would be taken.
            command = [sys.executable, "-W", "ignore", "-c", Path(__file__).read_text(), str(theirs.fileno()), *modules]
            self._process = subprocess.Popen(
                command, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, process_group=0
            )
        self._socket = ours

    def start(
        self, arguments: Sequence[str], place: Path, environment: Mapping[str, str], log: Path | None = None
    ) -> Process | subprocess.Popen[str]:
        """Start Python in a folder and a group of its own; on Linux it has everything imported.

        Args:
            arguments: they begin with -m, -c or a file.
            log: where what it says goes, rather than into a pipe.
        """
        if sys.platform != "linux":
            return subprocess.Popen(
                [sys.executable, "-W", "ignore", *arguments],
                cwd=place,
                env={**environment, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=open(log, "ab") if log else subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                process_group=0,
            )
        (output, said), (status, ended) = os.pipe(), os.pipe()
        if log:
            os.close(said)
            said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        asked = json.dumps([[*arguments], str(place), {**environment}]).encode()
        fds = array.array("i", [said, ended])
        self._socket.sendmsg([len(asked).to_bytes(8)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        self._socket.sendall(asked)
        os.close(said)
        os.close(ended)
        lines = open(status)  # noqa: SIM115  the process's own
        return Process(int(lines.readline()), open(output), lines)

    def close(self) -> None:
        """End it; its forks run on."""
        if sys.platform == "linux":
            self._socket.close()
            self._process.wait()


@cache
def shared() -> Preloaded:
    """Return one process that is forked, for all tests of this one; it ends with this one."""
    begun = Preloaded({**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"})
    atexit.register(begun.close)
    return begun


# --- the process that is forked ---------------------------------------------------------------------------


def serve(connection: socket.socket) -> list[str]:
    """Fork for each request; return its arguments, in the fork."""
    while True:
        size, fds, _, _ = socket.recv_fds(connection, 8, 2)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:  # those that have said how a process ended
                pass
        if not size:
            os._exit(0)
        asked = b""
        while len(asked) < int.from_bytes(size):
            asked += connection.recv(int.from_bytes(size) - len(asked))
        if os.fork() == 0:
            connection.close()
            return _begin(*fds, *json.loads(asked))
        for fd in fds:
            os.close(fd)


def _begin(output: int, status: int, arguments: list[str], place: str, environment: dict[str, str]) -> list[str]:
    """Fork again, and return in the process that was asked for; this one waits for it, and says how it ended."""
    if pid := os.fork():
        os.close(output)
        os.write(status, f"{pid}\n".encode())
        os.write(status, f"{os.waitpid(pid, 0)[1]}\n".encode())
        os._exit(0)
    os.setpgid(0, 0)
    os.close(status)
    os.chdir(place)
    os.environ.clear()
    os.environ.update(environment)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    for text in (sys.stdout, sys.stderr):
        text.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    return arguments


def become(arguments: Sequence[str]) -> NoReturn:
    """Run what Python would run, were it started with these arguments, and end."""
    code = _code_of(arguments)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)  # to take apart all that was imported would take half a second


def _code_of(arguments: Sequence[str]) -> int:
    try:
        _run(arguments)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _run(arguments: Sequence[str]) -> None:
    kind, *rest = arguments
    name = rest.pop(0) if kind in ("-m", "-c") else kind
    sys.argv = ["-c" if kind == "-c" else name, *rest]
    sys.path[0] = "" if kind in ("-m", "-c") else str(Path(name).parent)
    for folder in filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        if folder not in sys.path:
            sys.path.insert(1, folder)
    if kind == "-m":
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    elif kind == "-c":
        exec(compile(name, "<string>", "exec"), {"__name__": "__main__"})
    else:
        runpy.run_path(name, run_name="__main__")


def main(descriptor: int, modules: Sequence[str]) -> None:
    """Import, and serve until the other end is closed."""
    connection = socket.socket(fileno=descriptor)
    for module in modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    with contextlib.suppress(ImportError):  # its forks share the process that runs plug-ins, too
        importlib.import_module("harness.confine").prepare("harness.submission.child", "harness.plugins.study")
    gc.freeze()  # what the forks share stays shared
    become(serve(connection))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
