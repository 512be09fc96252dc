"""The address of the MLflow store, and errors that say what to do when it cannot be reached."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from harness import journal as journals
from harness.errors import HarnessError, TrackerError, UsageError, not_installed

SYNC = "python -m harness sync"
"""The command that adds missing runs to MLflow."""


def tracking_uri() -> str:
    """Return ``$MLFLOW_TRACKING_URI``, or the SQLite store under ``mlruns/`` by absolute path.

    Raises:
        UsageError: the address names a store in memory, which would be lost when the command ends.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or own_uri()
    if uri.startswith("sqlite") and (
        not re.fullmatch(r"sqlite:///[^?]+", uri) or "memory:" in uri or "///file:" in uri
    ):
        raise UsageError(
            f"MLFLOW_TRACKING_URI={uri} names no file: a store in memory is lost when the command ends.",
            hint="Unset it, or name a file or a server: sqlite:////home/me/mlflow.db, http://host:5000",
        )
    return uri


def address() -> str:
    """Return `tracking_uri` for display, without user and password."""
    return without_password(tracking_uri())


def own_uri() -> str:
    """Return the address of the SQLite store under ``mlruns/``."""
    return f"sqlite:///{journals.ROOT.absolute() / 'mlflow.db'}"


def without_password(text: str) -> str:
    """Return `text` with user and password of an address masked."""
    return re.sub(r"://[^/\s]*@", "://***@", text)


def own_database() -> Path | None:
    """Return the database under ``mlruns/``, or None if another store is used."""
    return database_of(own_uri()) if tracking_uri() == own_uri() else None


def database_of(uri: str) -> Path:
    """Return the database file of an SQLite address."""
    return Path(uri.removeprefix("sqlite:///").partition("?")[0])


def prepare(database: Path) -> None:
    """Create a local store if there is none, and check that it opens: mlflow itself would retry for minutes.

    One process creates the schema in a temporary folder and moves the file: a partial schema would never open again.
    """
    from mlflow import MlflowClient

    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(database.with_suffix(".lock")):
        if not database.exists() or database.stat().st_size == 0:
            for left in database.parent.glob("making-*"):  # left by a kill
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(
                prefix="making-", dir=database.parent, ignore_cleanup_errors=True
            ) as beside:
                made = Path(beside) / "mlflow.db"
                MlflowClient(f"sqlite:///{made.absolute()}")
                shutil.copy(made, made.with_suffix(".copy"))  # Windows cannot move an open file
                os.replace(made.with_suffix(".copy"), database)
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("SELECT name FROM sqlite_master")


@contextlib.contextmanager
def reaching(uri: str, command: str = SYNC) -> Iterator[None]:
    """Turn errors of the store at `uri` into one that says what is wrong and to run `command` afterwards.

    Raises:
        TrackerError: the store cannot be reached.
    """
    try:
        yield
    except HarnessError:
        raise
    except ModuleNotFoundError as error:
        raise lacking(error, command) from error
    except Exception as error:  # mlflow passes on what its store raises
        reason = reason_of(error)
        raise TrackerError(
            f"MLflow at {without_password(uri)} cannot be used: {reason}.",
            hint=advice(uri, command, reason),
        ) from error


_REFUSALS = {
    "error code 401": (
        "it rejects the user name or password",
        "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    ),
    "CERTIFICATE_VERIFY_FAILED": (
        "its certificate is not trusted here",
        "Set MLFLOW_TRACKING_SERVER_CERT_PATH to a copy of it, use the host name it was issued for",
    ),
}
"""By a text in the error: why a server cannot be used, and what to do before the next try."""


def lacking(error: ModuleNotFoundError, command: str) -> TrackerError:
    """Return the error for a missing package of MLflow's; its hint ends with `command`."""
    missing = not_installed(error)
    wrong = f"MLflow cannot be used: {missing.message}"
    if command != SYNC:
        return TrackerError(wrong, hint=f"{missing.hint}, and run {command}")
    elsewhere = "copy journal/ and studies/ from there into mlruns/ of a machine that has it"
    return TrackerError(wrong, allowed=safe(), hint=f"{missing.hint}, or {elsewhere}; then run {command}")


def advice(uri: str, command: str, reason: str) -> str:
    """Return what to do about a store that cannot be used, ending with `command`."""
    if uri.startswith("sqlite:"):
        if uri == own_uri():
            return f"If {database_of(uri)} is damaged, python -m harness doctor rebuilds it; otherwise run {command}"
        return f"Move {database_of(uri)} away if it is damaged, and run {command}"
    hint = dict(_REFUSALS.values()).get(reason)
    return f"{hint}, and run {command}" if hint else f"When it is back, run {command}"


def safe() -> str:
    """Return a sentence that says where the results are."""
    return f"Every result is safe in {journals.ROOT.absolute()}."


def reason_of(error: Exception) -> str:
    """Return the cause of an error of the store in a few words."""
    if re.search("Connection refused|Name or service not known|nodename nor servname|No route to host", str(error)):
        return "no server answers there"
    for sign, (reason, _) in _REFUSALS.items():
        if sign in str(error):
            return reason
    if isinstance(error, HarnessError):
        return error.message.removesuffix(".")
    return f"{type(error).__name__}: {without_password(str(error).strip().partition(chr(10))[0][:300])}"
