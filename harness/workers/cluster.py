"""Trials on many machines: a Dask cluster answers to the names of `harness.workers`. The only room that knows dask.

The driver keeps the study's log and the records. A worker is sent an architecture's text and its settings,
trains in processes of its own as the driver would in this machine's, and sends plain data back. It needs the
harness installed, and nothing else: images it does not have are sent to it once.

What Dask does: it trains again elsewhere what a lost worker was at, and gives up what several workers died
of. What it leaves to us: a worker that is there and does nothing, and a scheduler that is gone.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import pickle
import time
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from fractions import Fraction
from typing import Any, Self

from distributed import Client, KilledWorker, LocalCluster
from pebble import concurrent

from harness import __version__, data, watchdog
from harness.errors import ClusterLost, CrashedError, UsageError, WorkerLost
from harness.events import Epoch, Result, Trial
from harness.runs import Event, Started, TrialRequest
from harness.spec import HeldOut, Job
from harness.workers.protocol import News
from harness.workers.remote import (
    GPU,
    HEARTBEAT_SECONDS,
    Images,
    WorkerInfo,
    set_share,
    train_run,
    train_trial,
    worker_info,
)

CONNECT_SECONDS = 10
"""How long a scheduler may take to answer."""

ARRIVAL_SECONDS = 10
"""How long a first worker may take to come."""

SILENCE_SECONDS = 60.0
"""How long it may say nothing, or there may be no worker at all, before the driver does something about it."""

LOOK_SECONDS = 0.05
"""How long each of several runs looks for news of its own before another has its turn."""

MOST_HANGS = 5
"""Workers that hang after which the driver gives up: something is wrong with all of them."""


def shared_out(members: Collection[WorkerInfo]) -> list[WorkerInfo]:
    """Return the members that announce nothing, each with one of its GPUs and an equal part of what is left of it."""
    left: dict[tuple[str, str], Fraction] = defaultdict(lambda: Fraction(1))
    takers: dict[tuple[str, str], list[WorkerInfo]] = defaultdict(list)
    for member in members:
        if member.gpus is not None and member.sees:
            left[member.host, member.sees[0]] -= Fraction(member.gpus).limit_denominator(1_000)
    for member in sorted(members, key=lambda member: len(member.sees)):  # who has no choice goes first
        if member.gpus is None:
            gpus = [(member.host, name) for name in member.sees]
            takers[max(gpus, key=lambda gpu: left[gpu] / (len(takers[gpu]) + 1))].append(member)
    return [
        replace(member, sees=(name,), gpus=max(0.0, float(left[host, name] / len(sharers))), is_dealt=True)
        for (host, name), sharers in takers.items()
        for member in sharers
    ]


class Cluster:
    """Workers that a Dask scheduler knows.

    Attributes:
        dashboard: address of Dask's own page.
        members: the workers that are there, by their addresses; they may come and go.
        at_once: how many trainings they could do at the same time when they were hired.
    """

    together = 1

    def __init__(self, address: str, hang_timeout: float) -> None:
        """Connect to ``tcp://HOST:PORT``, or start workers here: ``local:4``.

        Raises:
            UsageError: nobody answers, no worker is there, or one of them has another harness or none.
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
                    f"--cluster {address} says no number of workers.", allowed="Legal: local:1 to local:256."
                )
            here = LocalCluster(
                n_workers=int(count),
                threads_per_worker=1,
                memory_limit=0,
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,  # what is wrong is said by us, once
            )
            self._closing.callback(here.close)
            return self._closing.enter_context(Client(here, set_as_default=False))
        try:
            # Dask itself waits for ever for who takes a connection and then says nothing.
            return self._closing.enter_context(_reach(address).result(2 * CONNECT_SECONDS))
        except (OSError, ValueError, TypeError) as error:
            (reason, *_) = str(error).strip().splitlines() or ["it says nothing"]
            raise UsageError(
                f"No Dask scheduler answers at {address} ({reason}).",
                allowed="Legal: tcp://HOST:PORT of a running scheduler, or local:N for N workers here.",
                hint="Start one: dask scheduler; and workers: dask worker tcp://HOST:8786 --nthreads 1",
            ) from None

    def _workers(self) -> dict[str, WorkerInfo]:
        with contextlib.suppress(TimeoutError):
            self._client.wait_for_workers(1, timeout=ARRIVAL_SECONDS)
        told = self._client.run(worker_info, on_error="return")
        if not told:
            raise UsageError(
                f"The scheduler at {self._address} has no workers.",
                hint=f"Start some: dask worker {self._address} --nthreads 1",
            )
        for address, said in told.items():
            if not isinstance(said, WorkerInfo):
                raise UsageError(f"The worker at {address} cannot use the harness: {said}.", hint="Install it there.")
            if said.harness != __version__:
                raise UsageError(
                    f"The worker at {address} has harness {said.harness}; here it is {__version__}.",
                    hint="Install the same one on both.",
                )
        if not any(self._client.processing().values()):  # no other driver counts on what was dealt before
            told = {address: replace(said, gpus=None) if said.is_dealt else said for address, said in told.items()}
        return dict(told)

    def _deal(self) -> None:
        """Share out the GPUs of each machine among those of its workers that announce none."""
        dealt = {member.address: member for member in shared_out(self.members.values())}
        if dealt:
            self._client.run(set_share, dealt, workers=[*dealt], on_error="ignore")
        self.members |= dealt

    @property
    def gpus(self) -> float:
        """How many the workers announce."""
        return round(sum(member.gpus or 0 for member in self.members.values()), 6)

    def send(self, dataset: str, held_out: HeldOut) -> None:
        """See to it that every worker, those that come later too, has the images it needs."""
        self._client.register_plugin(Images(data.files(dataset, held_out)), name=f"harness-{dataset}-{held_out}")

    def configure(self, device: str, gpu_share: float | None = None) -> None:
        """Say where training takes place: on CPUs, or on GPUs, of which each training takes a share.

        Args:
            gpu_share: by default what the worker with the smallest share has, and at most a whole GPU.

        Raises:
            UsageError: no worker has so large a share.
        """
        threads = self._client.nthreads()
        announced = {address: member.gpus for address, member in self.members.items() if member.gpus}
        resources = {}
        self.at_once = sum(threads.values())
        if device == "cuda":
            share = gpu_share or min(1.0, *announced.values())
            share *= 1 - 1e-9  # so that 0.2 fits five times into 1, which it does not in floats
            if share > (most := max(announced.values())):
                raise UsageError(
                    f"--gpu-share {gpu_share:g} is more of a GPU than any worker has.",
                    allowed=f"Legal: above 0, to {math.floor(10_000 * most) / 10_000:g}.",
                    hint="Leave it out: a training takes what its worker has. Fewer workers on a GPU have more of it.",
                )
            resources = {GPU: share}
            self.at_once = sum(min(threads[address], int(gpus / share)) for address, gpus in announced.items())
        self._executor = self._client.get_executor(pure=False, resources=resources)

    def __enter__(self) -> Self:
        self._client.subscribe_topic(self._topic, lambda event: self._heard.append(event[1]))
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):  # of a scheduler that is gone
            self._executor.shutdown(wait=False)
        self._closing.close()

    def submit(self, asked: Sequence[TrialRequest], medians: Mapping[int, float]) -> Future[list[Trial]]:
        """Have a trial trained by the next worker that is free."""
        future: Future[list[Trial]] = self._executor.submit(
            train_trial, asked, medians, self._hang_timeout, self._topic
        )
        return future

    def train(self, job: Job) -> Iterator[Event | None]:
        """Have a run trained by the next worker that is free, and yield its events; it is queued from the first.

        Raises:
            WorkerLost: another worker begins it anew; called again, this yields what that one does.
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
                told, event = inbox[0]
                self._refuse_another(lease := lease or told, told, job)
                inbox.popleft()
                count += 1
                yield event
            if is_done:
                if lost := self.why_lost(running):
                    raise CrashedError(f"Seed {job.seed}: {lost}.", hint="Look at their logs.")
                final, events, result = running.result()
                self._refuse_another(lease or final, final, job)
                yield from events[count:]  # news may be slower than the result
                yield result
                return
            yield None

    def _sort(self) -> None:
        for news in self.news():
            if (lease := self._leases[news.number]) not in self._given_up:
                self._inboxes[news.number].append((lease, news.event))

    def _refuse_another(self, lease: str, told: str, job: Job) -> None:
        if told != lease:
            self._given_up.add(lease)
            raise WorkerLost(f"The worker that trained seed {job.seed} was lost; another begins it anew.")

    def wait(self, running: Iterable[Future[Any]], seconds: float) -> set[Future[Any]]:
        """Return what is done first, or nothing after `seconds`.

        Raises:
            ClusterLost: the scheduler is gone, or one worker after the other hangs.
        """
        running = list(running)
        done, _ = wait(running, timeout=min(seconds, watchdog.SLICE), return_when=FIRST_COMPLETED)
        if self._client.status != "running" or any(future.cancelled() for future in done):
            raise ClusterLost(
                f"The Dask scheduler at {self._address} is gone.",
                allowed="What is finished is kept.",
                hint="Start it again, and its workers; the same command goes on.",
            )
        self._look_after_workers()
        return done

    def news(self) -> list[News]:
        """Return what workers have told of since the last call."""
        found = []
        while self._heard:
            said = self._heard.popleft()
            self._at_work[said["number"]] = said["worker"], time.monotonic()
            self._leases[said["number"]] = said["attempt"]
            if said["is_done"]:
                del self._at_work[said["number"]]
            elif news := pickle.loads(said["news"]):
                found.append(news)
        return found

    def why_lost(self, done: Future[Any]) -> str | None:
        """Say how many workers died of it."""
        error = done.exception()
        if not isinstance(error, KilledWorker):
            return None
        return f"{error.allowed_failures + 1} workers died while they trained it"

    def _look_after_workers(self) -> None:
        """Take away its work from a worker that says nothing; do not wait for ever where there is none."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + HEARTBEAT_SECONDS
        for worker in {worker for worker, heard in self._at_work.values() if now - heard > SILENCE_SECONDS}:
            self._at_work = {number: at for number, at in self._at_work.items() if at[0] != worker}
            self._hangs += 1
            self._client.retire_workers([worker], close_workers=True)
            self._refuse(self._hangs >= MOST_HANGS, f"{self._hangs} workers said nothing for {SILENCE_SECONDS:g} s")
        there = self._client.nthreads()
        if there:
            self._last_seen = now
        self.members = {address: member for address, member in self.members.items() if address in there}
        if came := [address for address in there if address not in self.members]:
            told = self._client.run(worker_info, workers=came, on_error="return")
            self.members |= {address: said for address, said in told.items() if isinstance(said, WorkerInfo)}
            self._deal()
        self._refuse(now - self._last_seen > SILENCE_SECONDS, f"{self._address} has had no worker for a minute")

    def _refuse(self, is_over: bool, wrong: str) -> None:
        if is_over:
            raise ClusterLost(
                f"{wrong}.", allowed="What is finished is kept.", hint="Look at their logs; the same command goes on."
            )


@concurrent.thread
def _reach(address: str) -> Client:
    return Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
