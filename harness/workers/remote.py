"""What runs on a worker of a cluster: it trains in a process of its own and reports to the driver."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import secrets
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from distributed import Status, Worker, WorkerPlugin, get_worker

from harness import __version__, data, watchdog
from harness.errors import CrashedError
from harness.events import Epoch, Result, Trial
from harness.runs import Started, TrialRequest
from harness.spec import Job
from harness.workers.processes import Processes
from harness.workers.protocol import News

HEARTBEAT_SECONDS = 2.0
"""How often a worker that trains says that it is there."""

GPU = "GPU"
"""The resource that workers announce, as Dask's own documentation calls it."""


@dataclass(frozen=True)
class WorkerInfo:
    """A worker, as it introduced itself.

    Attributes:
        host: the machine it is on.
        sees: the GPUs there that it may use, as CUDA_VISIBLE_DEVICES names them; it trains on the first.
        gpus: how much of a GPU it announces, or None where nothing was said: the driver deals it a share.
        is_dealt: a driver dealt it what it announces.
    """

    address: str
    harness: str
    torch: str
    host: str
    sees: tuple[str, ...]
    gpus: float | None
    is_dealt: bool


def worker_info(dask_worker: Worker) -> WorkerInfo:
    """Called by Dask, which fills this argument in."""
    sees = _gpus()
    announced = dask_worker.state.total_resources.get(GPU, None if sees else 0.0)
    return WorkerInfo(
        dask_worker.address,
        __version__,
        str(torch.__version__),
        socket.gethostname(),
        sees,
        announced,
        _was_dealt.is_set(),
    )


def _gpus() -> tuple[str, ...]:
    count = torch.cuda.device_count()
    names = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
    return tuple(name.strip() for name in names[:count])


_was_dealt = threading.Event()
"""Whether a driver gave this worker the share of a GPU that it announces."""


async def set_share(dealt: Mapping[str, WorkerInfo], dask_worker: Worker) -> None:
    """Announce the share that was dealt, and train on that GPU alone; called by Dask."""
    mine = dealt[dask_worker.address]
    os.environ["CUDA_VISIBLE_DEVICES"] = mine.sees[0]  # the processes it starts are given it
    await dask_worker.set_resources(**{GPU: mine.gpus or 0.0})
    _was_dealt.set()


class Images(WorkerPlugin):
    """Gives a worker the images it lacks."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    async def setup(self, worker: Worker) -> None:
        """Called by Dask when the worker hears of this, or comes."""
        if not data.are_here(self._files):
            folder = Path(worker.local_directory) / "harness-data"
            for name, contents in self._files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(contents)
            os.environ["HARNESS_DATA"] = str(folder)  # the processes it starts are given it

    def teardown(self, worker: Worker) -> None:
        """Called by Dask when the worker ends, and when another driver sends the same images: then all work on."""
        if worker.status in (Status.closing, Status.closing_gracefully, Status.closed, Status.failed):
            for pool in _all_pools:
                pool.__exit__()


_mine = threading.local()
"""Of each of a worker's threads, which has one task at a time: the process that trains for it."""

_all_pools: list[Processes] = []
"""The processes of all threads."""


def train_trial(
    asked: Sequence[TrialRequest], medians: Mapping[int, float], hang_timeout: float, topic: str
) -> list[Trial]:
    """Train a trial."""
    ((number, settings, job),) = asked
    watch = _Watch(number, job, hang_timeout, topic)
    future = watch.until_done(watch.pool.submit(asked, medians))
    if lost := watch.pool.why_lost(future):
        return [Trial(number, "failed", None, settings, reason=lost)]
    return future.result()


def train_run(job: Job, hang_timeout: float, topic: str) -> tuple[str, list[Started | Epoch], Result]:
    """Train a run; return which attempt at it this was, its events and its result."""
    watch = _Watch(job.seed, job, hang_timeout, topic)
    future = watch.until_done(watch.pool.run(job))
    if lost := watch.pool.why_lost(future):
        raise CrashedError(lost)
    return watch.lease, watch.events, future.result()


class _Watch:
    """Lets the driver know how far a training in a process of this worker's has come."""

    def __init__(self, number: int, job: Job, hang_timeout: float, topic: str) -> None:
        self.lease = secrets.token_hex(8)
        self.events: list[Started | Epoch] = []
        self._number, self._topic = number, topic
        self._worker = get_worker()
        self._task = self._worker.get_current_task()
        self._tell(None)
        self.pool = _pool_for(job.device, hang_timeout)

    def until_done(self, future: Future[Any]) -> Future[Any]:
        """Wait for the end.

        Raises:
            CrashedError: the driver has gone, or has given this to another worker.
        """
        is_done, heartbeat = False, time.monotonic()
        while not is_done:
            is_done = bool(self.pool.wait([future], watchdog.SLICE))
            for news in self.pool.news():
                self.events.append(news.event)
                self._tell(replace(news, worker=f"worker {self._worker.name}"))
            if time.monotonic() - heartbeat > HEARTBEAT_SECONDS:
                self._tell(None)
                heartbeat = time.monotonic()
            if not is_done and self._is_unwanted():
                _stop_pool()
                raise CrashedError("Nobody waits for it any more.")
        self._tell(None, is_done=True)
        return future

    def _tell(self, news: News | None, is_done: bool = False) -> None:
        said = {"number": self._number, "attempt": self.lease, "worker": self._worker.address, "is_done": is_done}
        self._worker.log_event(self._topic, {**said, "news": pickle.dumps(news)})

    def _is_unwanted(self) -> bool:
        task = self._worker.state.tasks.get(self._task)
        return task is None or task.state == "cancelled"


def _pool_for(device: str, hang_timeout: float) -> Processes:
    if getattr(_mine, "terms", None) != (device, hang_timeout):
        _stop_pool()
        # Dask marks its workers as daemons, which may have no children. Ours end when the worker does.
        multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
        _mine.processes = Processes(1, device, hang_timeout).__enter__()
        _mine.terms = device, hang_timeout
        _all_pools.append(_mine.processes)
    pool: Processes = _mine.processes
    return pool


def _stop_pool() -> None:
    if hasattr(_mine, "processes"):
        _all_pools.remove(_mine.processes)
        _mine.processes.__exit__()
        del _mine.processes, _mine.terms
