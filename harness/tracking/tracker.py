"""Journals, studies and sweeps brought to MLflow: at once by a command, or by a thread while training goes on.

MLflow is a projection: a source is read and the store is made to say the same. Doing it twice changes nothing, doing it
later keeps the original times. `Tracker` does so on a thread of its own while training runs, so that a store that is
slow, down or lost costs the training nothing.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Sequence

from filelock import FileLock

from harness import journal as journals
from harness import watchdog
from harness.backprop import Problem, Trajectory
from harness.errors import HarnessError, TrackerError
from harness.events import StudyRecord
from harness.journal import Imported, Journal
from harness.tracking import runs, studies, sweeps
from harness.tracking.client import Client
from harness.tracking.connection import SYNC, advice, lacking, reaching, reason_of, safe, tracking_uri, without_password
from harness.tracking.pull import pull_runs

Source = Journal | StudyRecord
"""What MLflow is a projection of."""

PATIENCE_SECONDS = 60.0
"""How long the end of a command waits for the store's next step: many seeds that end at once take minutes together."""

HASTE_SECONDS = 6.0
"""How long it waits when the command was stopped: the whole of its end may take ten."""


def sync_source(client: Client, source: Source) -> None:
    """Bring the store up to a journal, all but the model, or to a study: idempotent, with their own times.

    Safe while training runs: it draws no random number and runs none of the plug-in's code.
    """
    with _only_one(source):
        if isinstance(source, StudyRecord):
            studies.sync_study(client, source)
        else:
            runs.sync_run(client, source)


def is_current(client: Client, source: Source) -> bool:
    """Whether the store says all that a journal or a study does; of one that has not ended, nothing is asked."""
    if isinstance(source, StudyRecord):
        return studies.is_study_current(client, source)
    return runs.is_run_current(client, source)


def add_model(client: Client, source: Source) -> None:
    """Add the scored network to a finished run that lacks it; a study has none."""
    if isinstance(source, Journal):
        with _only_one(source):
            runs.add_model(client, source)


def _only_one(source: Source) -> FileLock:
    """Return the lock of the process that brings this to MLflow: two that find nothing there would both make it."""
    kind = "studies" if isinstance(source, StudyRecord) else "journal"
    return FileLock(journals.ROOT.absolute() / kind / source.run_id / "mlflow.lock")


class Tracker:
    """Projects journals into a store on a thread of its own."""

    def __init__(self, uri: str | None = None, warn: Callable[[str], None] | None = None) -> None:
        """Start the thread; the store is opened by it, with the first journal.

        Args:
            warn: told, once, what keeps the store from following while training goes on.
        """
        self.uri = uri or tracking_uri()
        self._warn = warn
        self._queue: queue.Queue[Source | None] = queue.Queue()
        self._failed: dict[str, Exception] = {}
        self._steps = 0
        self._client: Client | None = None
        self._adds_models = True
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def enqueue(self, source: Source) -> None:
        """Say that a journal or a study has grown; returns at once."""
        self._queue.put(source)

    def close(self, stopped: bool = False) -> None:
        """Wait until the store has caught up.

        Args:
            stopped: by a signal: wait less, and leave the models to `sync`.

        Raises:
            TrackerError: it has not; the journals hold what is missing.
        """
        self._adds_models = not stopped
        self._queue.put(None)
        while True:
            steps = self._steps
            self._thread.join(HASTE_SECONDS if stopped else PATIENCE_SECONDS)
            if stopped or steps == self._steps or not self._thread.is_alive():
                break
        if self._thread.is_alive():
            raise self._unreached("it does not answer")
        if self._failed:
            run_id, error = next(iter(self._failed.items()))
            if isinstance(error, ModuleNotFoundError):
                raise lacking(error, SYNC)
            if isinstance(error, TrackerError):
                raise TrackerError(error.message, allowed=safe(), hint=error.hint)
            if isinstance(error, HarnessError):  # of the plug-in, asked for its network once more
                raise TrackerError(f"MLflow lacks the model of {run_id}: {error.message}", allowed=safe())
            raise self._unreached(reason_of(error))

    def _unreached(self, reason: str) -> TrackerError:
        return TrackerError(
            f"MLflow at {without_password(self.uri)} could not be brought up to date: {reason}.",
            allowed=safe(),
            hint=advice(self.uri, SYNC, reason),
        )

    def _work(self) -> None:
        seen: dict[str, Source] = {}
        closing = False
        while not closing:
            waiting, closing = self._take_all()
            for source in waiting:
                seen[source.run_id] = source
                if not self._try_step(sync_source, source) and self._warn and not closing:
                    error = self._failed[source.run_id]
                    if isinstance(error, ModuleNotFoundError):  # for good: the end says so, and what to do
                        continue
                    reason = reason_of(error)
                    with contextlib.suppress(OSError):  # of a terminal that is gone: this thread has work to do
                        self._warn(
                            f"MLflow at {without_password(self.uri)} does not follow: {reason}. Training goes on."
                        )
                    self._warn = None
        for source in seen.values():  # now nothing trains, and what failed may have come back
            if self._try_step(sync_source, source) and self._adds_models:
                self._try_step(add_model, source)

    def _try_step(self, step: Callable[[Client, Source], None], source: Source) -> bool:
        try:
            self._client = self._client or Client(self.uri)
            step(self._client, source)
        except Exception as error:  # whatever mlflow raises: training goes on, the journal has it all
            self._failed[source.run_id] = error
            return False
        self._failed.pop(source.run_id, None)
        self._steps += 1
        return True

    def _take_all(self) -> tuple[list[Source], bool]:
        """Wait for a notice, take all there are, and return the last of each source and whether the end is there."""
        items = [self._queue.get()]
        while not self._queue.empty():
            items.append(self._queue.get())
        return list({item.run_id: item for item in items if item}.values()), None in items


def experiments(uri: str) -> dict[str, str]:
    """Return the experiments of a store, name to id; a local store is made if there is none.

    Raises:
        TrackerError: the store cannot be reached.
    """
    with reaching(uri):
        return Client(uri).experiments()


def record_sweep(problem: Problem, trajectories: Sequence[Trajectory]) -> None:
    """Record a learning-rate sweep.

    Raises:
        TrackerError: the store cannot be reached.
    """
    uri = tracking_uri()
    with reaching(uri, "the same command again"), FileLock(journals.ROOT.absolute() / "backprop.lock"):
        sweeps.sync_sweep(Client(uri), problem, trajectories)


def pull() -> list[Imported]:
    """Bring finished runs home that the store has and this machine has not.

    Raises:
        TrackerError: the store cannot be reached.
    """
    uri = tracking_uri()
    with reaching(uri, "python -m harness sync --pull"):
        return [*pull_runs(Client(uri))]


def sync(found: Iterable[Source]) -> int:
    """Bring the store up to `found` and return how many there are; one that cannot be read does not stop the others.

    Raises:
        TrackerError: the store cannot be reached, or a journal cannot be read.
    """
    uri = tracking_uri()
    done, failed = list[Source](), dict[str, Exception]()
    with reaching(uri):
        from mlflow.exceptions import MlflowException

        client = Client(uri)
        client.experiments()  # a server that is gone shows here, also where there is nothing to bring

        def try_step(step: Callable[[Client, Source], None], source: Source) -> bool:
            watchdog.heartbeat()
            try:
                step(client, source)
            except (MlflowException, ModuleNotFoundError):  # the store is damaged or gone, or mlflow lacks a package
                raise
            except Exception as error:  # whatever a damaged journal leads to
                client.experiments()  # a store may also raise what its database or the network raises
                failed[source.run_id] = error
                return False
            return True

        done = [source for source in found if try_step(sync_source, source)]
        for source in done:  # after all else: a model is made by its plug-in, which may break this process
            try_step(add_model, source)
    if failed:
        first, count = reason_of(next(iter(failed.values()))), len({*failed, *(source.run_id for source in done)})
        raise TrackerError(
            f"{len(failed)} of {count} records could not be brought to MLflow, the first: {first}.",
            allowed=f"They are in {journals.ROOT.absolute()}: {', '.join(failed)}.",
            hint="All others are in MLflow. Mend those or move them away, and sync again.",
        )
    return len(done)


def missing_runs(found: Iterable[Source]) -> list[str]:
    """Return the ids of what the store does not hold, or not to its end; what a process is at work on is left out.

    Raises:
        TrackerError: the store cannot be reached.
    """
    uri = tracking_uri()
    with reaching(uri):
        client = Client(uri)
        client.experiments()  # a server that is gone shows here, also where nothing is recorded
        return [source.run_id for source in found if not is_current(client, source)]
