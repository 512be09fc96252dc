"""The code that runs on a cluster worker: it trains in a child process and reports to the driver."""

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
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from distributed import Status, Worker, WorkerPlugin, get_worker

from harness import __version__, data, watchdog
from harness.errors import CrashedError
from harness.events import Epoch, Result, Trial
from harness.runs import Started, TrialRequest
from harness.spec import Job
from harness.workers.gpus import GPU, WorkerInfo
from harness.workers.processes import Processes
from harness.workers.protocol import News

HEARTBEAT_SECONDS = 2.0
"""Seconds between two heartbeats of a worker that trains."""


def worker_info(dask_worker: Worker) -> WorkerInfo:
    """Return what describes this worker; called by Dask, which supplies the argument."""
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
"""Set once a driver has assigned this worker its share of a GPU."""


async def set_share(dealt: Mapping[str, WorkerInfo], dask_worker: Worker) -> None:
    """Announce the assigned share of a GPU and train on that GPU only; called by Dask."""
    mine = dealt[dask_worker.address]
    os.environ["CUDA_VISIBLE_DEVICES"] = mine.sees[0]  # inherited by the processes it starts
    await dask_worker.set_resources(**{GPU: mine.gpus or 0.0})
    _was_dealt.set()


class Images(WorkerPlugin):
    """A Dask plug-in that gives workers the images they lack."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    async def setup(self, worker: Worker) -> None:
        """Write missing images; called by Dask on each present and future worker."""
        if not data.are_here(self._files):
            folder = Path(worker.local_directory) / "harness-data"
            for name, contents in self._files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(contents)
            os.environ["HARNESS_DATA"] = str(folder)  # inherited by the processes it starts

    def teardown(self, worker: Worker) -> None:
        """End the processes of a closing worker; Dask also calls this when another driver sends the same images."""
        if worker.status in (Status.closing, Status.closing_gracefully, Status.closed, Status.failed):
            for pool in _all_pools:
                pool.__exit__()


_mine = threading.local()
"""For each thread of a worker, which has one task at a time, the process that trains for it."""

_all_pools: list[Processes] = []
"""The processes of all threads."""


def train_trial(
    requests: Sequence[TrialRequest], medians: Mapping[int, float], hang_timeout: float, topic: str
) -> list[Trial]:
    """Train one trial in a child process, reporting to the driver through the Dask topic `topic`."""
    ((number, settings, job),) = requests
    watch = _Watch(number, job, hang_timeout, topic)
    future = watch.until_done(watch.pool.submit(requests, medians))
    if lost := watch.pool.why_lost(future):
        return [Trial(number, "failed", None, settings, reason=lost)]
    return future.result()


def train_run(job: Job, hang_timeout: float, topic: str) -> tuple[str, list[Started | Epoch], Result]:
    """Train a run in a child process; return the lease, the events and the result.

    Raises:
        CrashedError: the child process died, or the driver no longer waits for the run.
    """
    watch = _Watch(job.seed, job, hang_timeout, topic)
    future = watch.until_done(watch.pool.run(job))
    if lost := watch.pool.why_lost(future):
        raise CrashedError(lost)
    return watch.lease, watch.events, future.result()


class _Watch:
    """Reports the progress of a training in a child process to the driver.

    Attributes:
        lease: identifies this worker's try at the task, so that the driver can tell it from a lost worker's.
        events: those reported so far.
    """

    def __init__(self, number: int, job: Job, hang_timeout: float, topic: str) -> None:
        self.lease = secrets.token_hex(8)
        self.events: list[Started | Epoch] = []
        self._number, self._topic = number, topic
        self._worker = get_worker()
        self._task = self._worker.get_current_task()
        self._tell(None)
        self.pool = _pool_for(job.device, hang_timeout)

    def until_done(self, future: Future[Any]) -> Future[Any]:
        """Wait until the training ends, reporting its progress.

        Raises:
            CrashedError: the driver is gone, or has given the task to another worker.
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
                raise CrashedError("The driver no longer waits for this training.")
        self._tell(None, is_done=True)
        return future

    def _tell(self, news: News | None, is_done: bool = False) -> None:
        about = {"number": self._number, "attempt": self.lease, "worker": self._worker.address, "is_done": is_done}
        self._worker.log_event(self._topic, {**about, "news": pickle.dumps(news)})

    def _is_unwanted(self) -> bool:
        task = self._worker.state.tasks.get(self._task)
        return task is None or task.state == "cancelled"


def _pool_for(device: str, hang_timeout: float) -> Processes:
    if getattr(_mine, "terms", None) != (device, hang_timeout):
        _stop_pool()
        # Dask marks its workers as daemons, which may not have children. These children end with the worker.
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
