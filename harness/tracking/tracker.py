"""Projects journals, studies and sweeps into MLflow: all at once for a command, or on a thread during training.

MLflow is a projection: a source is read, and the store receives what it lacks of it. Repeating this is safe, and the
original times are kept however late it is done. `Tracker` works on a thread of its own, so a store that is slow or down
does not delay training.
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
"""What is projected into MLflow."""

PATIENCE_SECONDS = 60.0
"""Seconds without progress after which the end of a command stops waiting for the store."""

HASTE_SECONDS = 6.0
"""Seconds it waits when the command was stopped by a signal, which must end within about ten."""


def sync_source(client: Client, source: Source) -> None:
    """Add to the store what it lacks of a journal, except the model, or of a study. Idempotent; keeps original times.

    Safe during training: it draws no random numbers and runs no plug-in code.
    """
    with _only_one(source):
        if isinstance(source, StudyRecord):
            studies.sync_study(client, source)
        else:
            runs.sync_run(client, source)


def is_current(client: Client, source: Source) -> bool:
    """Return whether the store holds all of a journal or a study; True for one that has not ended."""
    if isinstance(source, StudyRecord):
        return studies.is_study_current(client, source)
    return runs.is_run_current(client, source)


def add_model(client: Client, source: Source) -> None:
    """Add the scored network to a finished run that lacks it; a study has no model."""
    if isinstance(source, Journal):
        with _only_one(source):
            runs.add_model(client, source)


def _only_one(source: Source) -> FileLock:
    """Return the lock for syncing a source: without it two processes could both create its run."""
    kind = "studies" if isinstance(source, StudyRecord) else "journal"
    return FileLock(journals.ROOT.absolute() / kind / source.run_id / "mlflow.lock")


class Tracker:
    """Projects journals and studies into a store, on a thread of its own."""

    def __init__(self, uri: str | None = None, warn: Callable[[str], None] | None = None) -> None:
        """Start the thread, which opens the store when the first source arrives.

        Args:
            uri: address of the store; by default `tracking_uri`.
            warn: called once with a message, if the store cannot be updated during training.
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
        """Have a journal or a study synced, as it has grown; returns at once."""
        self._queue.put(source)

    def close(self, stopped: bool = False) -> None:
        """Wait until the store is up to date.

        Args:
            stopped: a signal stopped the command: wait less, and leave the models to `sync`.

        Raises:
            TrackerError: the store is not up to date; the journals hold what is missing.
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
            if isinstance(error, HarnessError):  # raised by the plug-in while its network was built for the model
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
                    if isinstance(error, ModuleNotFoundError):  # permanent: `close` raises it with a hint
                        continue
                    reason = reason_of(error)
                    with contextlib.suppress(OSError):  # a closed terminal must not end this thread
                        self._warn(
                            f"MLflow at {without_password(self.uri)} cannot be updated: {reason}. Training continues."
                        )
                    self._warn = None
        for source in seen.values():  # no run trains now, and a store that failed may be back
            if self._try_step(sync_source, source) and self._adds_models:
                self._try_step(add_model, source)

    def _try_step(self, step: Callable[[Client, Source], None], source: Source) -> bool:
        try:
            self._client = self._client or Client(self.uri)
            step(self._client, source)
        except Exception as error:  # mlflow raises anything; training continues, the journal has it all
            self._failed[source.run_id] = error
            return False
        self._failed.pop(source.run_id, None)
        self._steps += 1
        return True

    def _take_all(self) -> tuple[list[Source], bool]:
        """Wait for a source, take all queued ones, and return each once, and whether the tracker is closing."""
        items = [self._queue.get()]
        while not self._queue.empty():
            items.append(self._queue.get())
        return list({item.run_id: item for item in items if item}.values()), None in items


def experiments(uri: str) -> dict[str, str]:
    """Return the experiments of a store, name to id; a local store is created if there is none.

    Raises:
        TrackerError: the store cannot be reached.
    """
    with reaching(uri):
        return Client(uri).experiments()


def record_sweep(problem: Problem, trajectories: Sequence[Trajectory]) -> None:
    """Record a learning-rate sweep in MLflow.

    Raises:
        TrackerError: the store cannot be reached.
    """
    uri = tracking_uri()
    with reaching(uri, "the same command again"), FileLock(journals.ROOT.absolute() / "backprop.lock"):
        sweeps.sync_sweep(Client(uri), problem, trajectories)


def pull() -> list[Imported]:
    """Import the finished runs that the store has and this machine lacks.

    Raises:
        TrackerError: the store cannot be reached.
    """
    uri = tracking_uri()
    with reaching(uri, "python -m harness sync --pull"):
        return [*pull_runs(Client(uri))]


def sync(found: Iterable[Source]) -> int:
    """Add to the store what it lacks of `found`, and return their number; a damaged one does not stop the others.

    Raises:
        TrackerError: the store cannot be reached, or a journal cannot be read.
    """
    uri = tracking_uri()
    done, failed = list[Source](), dict[str, Exception]()
    with reaching(uri):
        from mlflow.exceptions import MlflowException

        client = Client(uri)
        client.experiments()  # raises if the server is gone, even if there is nothing to add

        def try_step(step: Callable[[Client, Source], None], source: Source) -> bool:
            watchdog.heartbeat()
            try:
                step(client, source)
            except (MlflowException, ModuleNotFoundError):  # the store is unusable, or mlflow lacks a package
                raise
            except Exception as error:  # a damaged journal can raise anything
                client.experiments()  # raises if the store, rather than the journal, is at fault
                failed[source.run_id] = error
                return False
            return True

        done = [source for source in found if try_step(sync_source, source)]
        for source in done:  # last, as it runs plug-in code, which may break this process
            try_step(add_model, source)
    if failed:
        first, count = reason_of(next(iter(failed.values()))), len({*failed, *(source.run_id for source in done)})
        raise TrackerError(
            f"{len(failed)} of {count} records could not be added to MLflow, the first: {first}.",
            allowed=f"They are in {journals.ROOT.absolute()}: {', '.join(failed)}.",
            hint="All others are in MLflow. Restore those or move them away, and sync again.",
        )
    return len(done)


def find_outdated(found: Iterable[Source]) -> list[str]:
    """Return the ids of the sources that the store lacks in whole or in part, without those still running.

    Raises:
        TrackerError: the store cannot be reached.
    """
    uri = tracking_uri()
    with reaching(uri):
        client = Client(uri)
        client.experiments()  # raises if the server is gone, even if nothing is recorded
        return [source.run_id for source in found if not is_current(client, source)]
