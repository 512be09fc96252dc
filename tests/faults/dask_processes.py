"""A real Dask scheduler and real workers, each a process group of its own, to be killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from preloaded import Process, shared


class DaskProcesses:
    """A scheduler on a port of this machine, and workers by name; a killed worker takes its nanny along."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._file = place / "scheduler.json"
        self._processes: dict[str, Process] = {}
        self._port = 0
        self.begin_scheduler()

    @property
    def address(self) -> str:
        return str(json.loads(self._file.read_text())["address"])

    def begin_scheduler(self) -> None:
        self._file.unlink(missing_ok=True)
        place = ["--host", "127.0.0.1", "--port", str(self._port), "--dashboard-address", "127.0.0.1:0"]
        self._start("scheduler", "scheduler", *place, "--scheduler-file", str(self._file))
        for _ in range(600):
            with contextlib.suppress(OSError, ValueError, KeyError):
                self._port = int(self.address.rpartition(":")[2])
                return
            time.sleep(0.05)
        raise AssertionError(f"no scheduler: {self.said('scheduler')}")

    def begin_worker(self, name: str, *options: str, nanny: bool = False, **environment: str) -> None:
        given = ["--name", name, "--nthreads", "1", "--memory-limit", "0", "--no-dashboard", *options]
        given += [] if nanny else ["--no-nanny"]
        folder = ["--local-directory", str(self._place / name)]
        self._start(name, "worker", self.address, *given, *folder, **environment)

    def _start(self, name: str, *command: str, **environment: str) -> None:
        found = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        log = self._place / f"{name}.log"
        self._processes[name] = shared().start(["-m", "dask", *command], self._place, found, log)

    def said(self, name: str) -> str:
        return (self._place / f"{name}.log").read_text()

    def send(self, name: str, number: signal.Signals) -> None:
        """Signal a process and those it started, which have groups of their own."""
        leader = self._processes[name].pid
        for pid in [*_descendants(leader), leader]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self, name: str) -> None:
        self.send(name, signal.SIGKILL)
        self._processes.pop(name).wait()

    def close(self) -> None:
        for name in [*self._processes]:
            self.kill(name)


def _descendants(pid: int) -> list[int]:
    try:
        tasks = [*Path(f"/proc/{pid}/task").iterdir()]
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []
    return [deeper for child in children for deeper in _descendants(child)] + children


@contextlib.contextmanager
def dask_processes(place: Path, *workers: str) -> Iterator[DaskProcesses]:
    place.mkdir()
    begun = DaskProcesses(place)
    try:
        for name in workers:
            begun.begin_worker(name)
        yield begun
    finally:
        begun.close()
