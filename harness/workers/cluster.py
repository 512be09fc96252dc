"""Training on many machines: a Dask cluster as the workers of a study or of several seeds.

Only this module and `remote` import Dask. The driver keeps the study's log and the journals. A worker receives an
architecture's text and its settings, trains in child processes, and sends plain data back. It needs nothing but an
installed harness: images that it lacks are sent to it once.

If a worker disconnects, Dask reschedules its work; a task that several workers died of is given up. This module
handles what Dask does not: a worker that is connected but hangs, and a scheduler that is gone.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import pickle
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from typing import Any, Self

from distributed import Client, KilledWorker, LocalCluster
from pebble import concurrent

from harness import __version__, data, watchdog
from harness.errors import ClusterLost, CrashedError, UsageError, WorkerLost
from harness.events import Epoch, Result, Trial
from harness.runs import Event, Started, TrialRequest
from harness.spec import HeldOut, Job
from harness.workers.gpus import GPU, WorkerInfo, shared_out
from harness.workers.protocol import News
from harness.workers.remote import HEARTBEAT_SECONDS, Images, set_share, train_run, train_trial, worker_info

CONNECT_SECONDS = 10
"""Seconds that a scheduler may take to respond."""

ARRIVAL_SECONDS = 10
"""Seconds to wait for the first worker."""

SILENCE_SECONDS = 60.0
"""Seconds without a heartbeat, or without any worker, after which the driver acts."""

LOOK_SECONDS = 0.05
"""Seconds that each of several runs waits for its news before another one has its turn."""

MOST_HANGS = 5
"""Number of hanging workers after which the driver gives up."""


class Cluster:
    """The workers of a Dask scheduler.

    Attributes:
        dashboard: address of Dask's dashboard.
        members: the connected workers, by address; workers may join and leave.
        at_once: number of trainings that the workers could run at the same time when `configure` was called.
    """

    together = 1

    def __init__(self, address: str, hang_timeout: float) -> None:
        """Connect to the scheduler at ``tcp://HOST:PORT``, or start workers on this machine: ``local:4``.

        Args:
            hang_timeout: seconds without a heartbeat after which a worker ends its training process.

        Raises:
            UsageError: no scheduler responds, it has no workers, or a worker lacks this version of the harness.
        """
        self._closing = contextlib.ExitStack()
        self._hang_timeout = hang_timeout
        try:
            self._client = self._connect(address)
            self._address = self._client.scheduler_info()["address"]
            self.dashboard: str = self._client.dashboard_link
            self.members = self._workers()
            self._deal()
        except BaseException:
            self._closing.close()
            raise
        self._topic = f"harness-{os.getpid()}-{time.time_ns()}"
        self._heard: deque[dict[str, Any]] = deque()
        self._at_work: dict[int, tuple[str, float]] = {}
        self._hangs = 0
        self._last_seen = self._next_look = time.monotonic()
        self._runs: dict[int, Future[tuple[str, list[Started | Epoch], Result]]] = {}
        self._inboxes: dict[int, deque[tuple[str, Started | Epoch]]] = defaultdict(deque)
        self._leases: dict[int, str] = {}
        self._given_up: set[str] = set()

    def _connect(self, address: str) -> Client:
        kind, _, count = address.partition(":")
        if kind == "local":
            if not count.isdecimal() or not 1 <= int(count) <= 256:
                raise UsageError(
                    f"--cluster {address} has no valid number of workers.", allowed="Allowed: local:1 to local:256."
                )
            here = LocalCluster(
                n_workers=int(count),
                threads_per_worker=1,
                memory_limit=0,
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,  # errors are reported once, by this module
            )
            self._closing.callback(here.close)
            return self._closing.enter_context(Client(here, set_as_default=False))
        try:
            # Dask itself waits forever for a server that accepts a connection and sends nothing.
            return self._closing.enter_context(_reach(address).result(2 * CONNECT_SECONDS))
        except (OSError, ValueError, TypeError) as error:
            (reason, *_) = str(error).strip().splitlines() or ["no response"]
            raise UsageError(
                f"No Dask scheduler answers at {address} ({reason}).",
                allowed="Allowed: tcp://HOST:PORT of a running scheduler, or local:N for N workers here.",
                hint="Start one: dask scheduler; and workers: dask worker tcp://HOST:8786 --nthreads 1",
            ) from None

    def _workers(self) -> dict[str, WorkerInfo]:
        with contextlib.suppress(TimeoutError):
            self._client.wait_for_workers(1, timeout=ARRIVAL_SECONDS)
        found = self._client.run(worker_info, on_error="return")
        if not found:
            raise UsageError(
                f"The scheduler at {self._address} has no workers.",
                hint=f"Start some: dask worker {self._address} --nthreads 1",
            )
        for address, info in found.items():
            if not isinstance(info, WorkerInfo):
                raise UsageError(f"The worker at {address} cannot use the harness: {info}.", hint="Install it there.")
            if info.harness != __version__:
                raise UsageError(
                    f"The worker at {address} has harness {info.harness}; here it is {__version__}.",
                    hint="Install the same version on both.",
                )
        if not any(self._client.processing().values()):  # no other driver relies on earlier shares
            found = {address: replace(info, gpus=None) if info.is_dealt else info for address, info in found.items()}
        return dict(found)

    def _deal(self) -> None:
        """Assign the GPUs of each machine to those of its workers that announce no share."""
        dealt = {member.address: member for member in shared_out(self.members.values())}
        if dealt:
            self._client.run(set_share, dealt, workers=[*dealt], on_error="ignore")
        self.members |= dealt

    @property
    def gpus(self) -> float:
        """Number of GPUs that the workers announce."""
        return round(sum(member.gpus or 0 for member in self.members.values()), 6)

    def send(self, dataset: str, held_out: HeldOut) -> None:
        """Send the images of a dataset to all present and future workers that lack them."""
        self._client.register_plugin(Images(data.files(dataset, held_out)), name=f"harness-{dataset}-{held_out}")

    def configure(self, device: str, gpu_share: float | None = None) -> None:
        """Choose the device that the workers train on; call it before submitting.

        Args:
            device: ``cpu`` or ``cuda``.
            gpu_share: share of a GPU that each training takes; by default the smallest share of a worker, and at most
                a whole GPU.

        Raises:
            UsageError: `gpu_share` is larger than the share of every worker.
        """
        threads = self._client.nthreads()
        announced = {address: member.gpus for address, member in self.members.items() if member.gpus}
        resources = {}
        self.at_once = sum(threads.values())
        if device == "cuda":
            share = gpu_share or min(1.0, *announced.values())
            share *= 1 - 1e-9  # so that 0.2 fits five times into 1 despite rounding
            if share > (most := max(announced.values())):
                raise UsageError(
                    f"--gpu-share {gpu_share:g} is more than any worker has.",
                    allowed=f"Allowed: above 0, to {math.floor(10_000 * most) / 10_000:g}.",
                    hint="Leave it out to take each worker's share. Fewer workers on a GPU have larger shares.",
                )
            resources = {GPU: share}
            self.at_once = sum(min(threads[address], int(gpus / share)) for address, gpus in announced.items())
        self._executor = self._client.get_executor(pure=False, resources=resources)

    def __enter__(self) -> Self:
        self._client.subscribe_topic(self._topic, lambda event: self._heard.append(event[1]))
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):  # the scheduler may be gone
            self._executor.shutdown(wait=False)
        self._closing.close()

    def submit(self, requests: Sequence[TrialRequest], medians: Mapping[int, float]) -> Future[list[Trial]]:
        """Queue a trial for the next free worker."""
        future: Future[list[Trial]] = self._executor.submit(
            train_trial, requests, medians, self._hang_timeout, self._topic
        )
        return future

    def train(self, job: Job) -> Iterator[Event | None]:
        """Queue a run for the next free worker and yield its events, and None while there is none.

        Raises:
            WorkerLost: the worker disconnected and another one restarts the run; call this again for its events.
            HarnessError: as `harness.runs.train`.
        """
        if job.seed not in self._runs:
            self._runs[job.seed] = self._executor.submit(train_run, job, self._hang_timeout, self._topic)
        running, inbox = self._runs[job.seed], self._inboxes[job.seed]
        lease, count = "", 0
        while True:
            is_done = bool(self.wait([running], LOOK_SECONDS))
            self._sort()
            while inbox:
                sender, event = inbox[0]
                self._refuse_another(lease := lease or sender, sender, job)
                inbox.popleft()
                count += 1
                yield event
            if is_done:
                if lost := self.why_lost(running):
                    raise CrashedError(f"Seed {job.seed}: {lost}.", hint="Look at their logs.")
                final, events, result = running.result()
                self._refuse_another(lease or final, final, job)
                yield from events[count:]  # reports may arrive after the result
                yield result
                return
            yield None

    def _sort(self) -> None:
        for news in self.news():
            if (lease := self._leases[news.number]) not in self._given_up:
                self._inboxes[news.number].append((lease, news.event))

    def _refuse_another(self, lease: str, sender: str, job: Job) -> None:
        if sender != lease:
            self._given_up.add(lease)
            raise WorkerLost(f"The worker that trained seed {job.seed} disconnected; another worker restarts it.")

    def wait(self, running: Iterable[Future[Any]], seconds: float) -> set[Future[Any]]:
        """Return the finished futures as soon as there is one, or an empty set after `seconds`, or sooner.

        Raises:
            ClusterLost: the scheduler is gone, there is no worker, or too many workers hang.
        """
        running = list(running)
        done, _ = wait(running, timeout=min(seconds, watchdog.SLICE), return_when=FIRST_COMPLETED)
        if self._client.status != "running" or any(future.cancelled() for future in done):
            raise ClusterLost(
                f"The Dask scheduler at {self._address} is gone.",
                allowed="Finished work is saved.",
                hint="Restart it and its workers, then run the same command again to resume.",
            )
        self._look_after_workers()
        return done

    def news(self) -> list[News]:
        """Return the progress reports since the last call."""
        found = []
        while self._heard:
            report = self._heard.popleft()
            self._at_work[report["number"]] = report["worker"], time.monotonic()
            self._leases[report["number"]] = report["attempt"]
            if report["is_done"]:
                del self._at_work[report["number"]]
            elif news := pickle.loads(report["news"]):
                found.append(news)
        return found

    def why_lost(self, done: Future[Any]) -> str | None:
        """Return how many workers died of a task, or None if it did not end so."""
        error = done.exception()
        if not isinstance(error, KilledWorker):
            return None
        return f"{error.allowed_failures + 1} workers died while they trained it"

    def _look_after_workers(self) -> None:
        """Retire workers without a heartbeat, so that Dask reschedules their work; give up if there is no worker."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + HEARTBEAT_SECONDS
        for worker in {worker for worker, heard in self._at_work.values() if now - heard > SILENCE_SECONDS}:
            self._at_work = {number: at for number, at in self._at_work.items() if at[0] != worker}
            self._hangs += 1
            self._client.retire_workers([worker], close_workers=True)
            self._refuse(self._hangs >= MOST_HANGS, f"{self._hangs} workers did not respond for {SILENCE_SECONDS:g} s")
        there = self._client.nthreads()
        if there:
            self._last_seen = now
        self.members = {address: member for address, member in self.members.items() if address in there}
        if came := [address for address in there if address not in self.members]:
            found = self._client.run(worker_info, workers=came, on_error="return")
            self.members |= {address: info for address, info in found.items() if isinstance(info, WorkerInfo)}
            self._deal()
        self._refuse(now - self._last_seen > SILENCE_SECONDS, f"{self._address} has had no worker for a minute")

    def _refuse(self, is_over: bool, wrong: str) -> None:
        if is_over:
            raise ClusterLost(
                f"{wrong}.",
                allowed="Finished work is saved.",
                hint="Look at their logs, then run the same command again to resume.",
            )


@concurrent.thread
def _reach(address: str) -> Client:
    return Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
