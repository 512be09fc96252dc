"""Worker processes on this machine."""

from __future__ import annotations

import base64
import contextlib
import multiprocessing
import os
import pickle
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, Self

import torch
from pebble import ProcessExpired, ProcessPool

from harness import confine, watchdog
from harness.events import Epoch, Result, Trial
from harness.runs import Started, TrialRequest, expect_audit, leave_audit, leave_no_audit, train, train_trials
from harness.spec import Job
from harness.workers.protocol import News

THREADS = 1
"""Threads of each trial, fixed as another number could give other bits."""


class Processes:
    """Worker processes on this machine.

    On a CPU each process trains one trial at a time, so a process that dies loses one trial only. A GPU is used by one
    process that trains several trials in turns, as several processes would wait for each other; meanwhile the other
    CPU cores audit networks.
    """

    def __init__(self, count: int, device: str, hang_timeout: float, auditors: int = 0) -> None:
        """Prepare the workers.

        Args:
            count: number of trials trained at a time.
            device: ``cpu`` or ``cuda``.
            hang_timeout: seconds without a heartbeat after which a process is ended.
            auditors: number of processes that audit networks of trials that wait for a GPU.
        """
        self.together = count if device == "cuda" else 1
        self._count = count // self.together
        self._auditors = auditors
        self._auditing: dict[Future[None], Job] = {}
        self._hang_timeout = hang_timeout

    def __enter__(self) -> Self:
        self._kept = tempfile.TemporaryDirectory(prefix="harness-")
        self._folder = Path(self._kept.name)
        self._clocks: dict[Path, watchdog.Watchdog] = {}
        self._read: dict[Path, int] = {}
        resource_tracker.ensure_running()  # started later, it would unblock Ctrl-C in this thread
        self._pool = _pool(self._count, self._folder, self._hang_timeout)
        self._audits = self._folder / "audits"
        self._audits.mkdir()
        self._audit_pool = _pool(self._auditors, self._folder, self._hang_timeout) if self._auditors else None
        return self

    def __exit__(self, *_: object) -> None:
        for pool in (self._pool, self._audit_pool):
            if pool:
                pool.stop()
                pool.join()
        self._kept.cleanup()

    def submit(self, requests: Sequence[TrialRequest], medians: Mapping[int, float]) -> Future[list[Trial]]:
        """Queue at most `together` trials for the next free process."""
        with _without_ctrl_c():
            for _, _, job in requests if self._audit_pool else ():
                self._audit(job)
            future: Future[list[Trial]] = self._pool.schedule(
                _train_trials, args=(requests, medians, self._folder, self._audits)
            )
        return future

    def _audit(self, job: Job) -> None:
        assert self._audit_pool
        if expect_audit(self._audits, job):
            self._auditing[self._audit_pool.schedule(_audit, args=(job, self._audits))] = job

    def wait(self, running: Iterable[Future[Any]], seconds: float) -> set[Future[Any]]:
        """Return the finished futures, or an empty set after `seconds`; ends processes that hang."""
        done, _ = wait(running, timeout=min(seconds, watchdog.SLICE), return_when=FIRST_COMPLETED)
        for audited in [future for future in self._auditing if future.done()]:
            self.why_lost(audited)  # its process may have left children
            leave_no_audit(self._audits, self._auditing.pop(audited))
        if not done:
            for log in self._folder.glob("*.log"):
                if log not in self._clocks:
                    self._clocks[log] = watchdog.Watchdog(int(log.stem), log, self._hang_timeout)
                self._clocks[log].tick()
        return done

    def run(self, job: Job) -> Future[Result]:
        """Queue a run for the next free process."""
        with _without_ctrl_c():
            future: Future[Result] = self._pool.schedule(_run, args=(job, self._folder))
        return future

    def news(self) -> list[News]:
        """Return the progress reports since the last call."""
        found = []
        for file in self._folder.glob("*.news"):
            with open(file, "rb") as lines:
                lines.seek(self._read.get(file, 0))
                whole, _, _ = lines.read().rpartition(b"\n")
            if whole:
                self._read[file] = self._read.get(file, 0) + len(whole) + 1
                for line in whole.splitlines():
                    number, event, epochs = pickle.loads(base64.b64decode(line))
                    found.append(News(number, event, epochs, f"process {file.stem}"))
        return found

    def why_lost(self, done: Future[Any]) -> str | None:
        """Return why the process died, or None if it did not; ends the children that it left."""
        expired = done.exception()
        if not isinstance(expired, ProcessExpired):
            return None
        watchdog.end_group(expired.pid)
        log = _log_of(self._folder, expired.pid)
        reason = watchdog.post_mortem("its process", expired.exitcode, log).message
        self._clocks.pop(log, None)
        log.unlink(missing_ok=True)
        return reason


def _pool(count: int, folder: Path, hang_timeout: float) -> ProcessPool:
    return ProcessPool(
        max_workers=count,
        context=multiprocessing.get_context("spawn"),  # torch's threads and CUDA do not survive a fork
        initializer=_begin,
        initargs=[folder, hang_timeout],
    )


@contextlib.contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Block Ctrl-C in threads and processes started here: the driver receives it and ends its workers."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(folder: Path, hang_timeout: float) -> None:
    confine.limit_time(hang_timeout)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for systems where a process does not inherit blocked signals
    torch.set_num_threads(THREADS)
    watchdog.watch(_log_of(folder, os.getpid()))
    watchdog.pause()


def _train_trials(
    requests: Sequence[TrialRequest], medians: Mapping[int, float], folder: Path, audits: Path
) -> list[Trial]:
    epochs = {number: job.recipe.epochs for number, _, job in requests}
    with _reporting(folder) as tell:
        return train_trials(requests, medians, lambda number, epoch: tell(number, epoch, epochs[number]), audits)


def _audit(job: Job, audits: Path) -> None:
    watchdog.heartbeat()  # its time limit starts here
    try:
        leave_audit(audits, job)
    finally:
        watchdog.pause()


def _run(job: Job, folder: Path) -> Result:
    with _reporting(folder) as tell:
        for event in train(job):
            watchdog.heartbeat()
            if isinstance(event, Result):
                return event
            if isinstance(event, (Started, Epoch)):
                tell(job.seed, event, job.recipe.epochs)
    raise AssertionError("a training ends with its result")


@contextlib.contextmanager
def _reporting(folder: Path) -> Iterator[Callable[[int, Started | Epoch, int], None]]:
    """Yield a function that reports progress: to a file, as a killed process would leave a shared queue locked."""
    watchdog.heartbeat()  # its time limit starts here
    try:
        with open(folder / f"{os.getpid()}.news", "ab", buffering=0) as file:

            def tell(number: int, event: Started | Epoch, epochs: int) -> None:
                file.write(base64.b64encode(pickle.dumps((number, event, epochs))) + b"\n")

            yield tell
    finally:
        watchdog.pause()


def _log_of(folder: Path, pid: int) -> Path:
    return folder / f"{pid}.log"
