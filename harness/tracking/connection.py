"""Where MLflow is, how it is reached, and what to do where it cannot be."""

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
"""The command that adds to MLflow what it lacks."""


def tracking_uri() -> str:
    """Return ``$MLFLOW_TRACKING_URI``, else the SQLite store under ``mlruns/``, by absolute path.

    Raises:
        UsageError: a store in memory, which would be gone with the command.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or own_uri()
    if uri.startswith("sqlite") and (
        not re.fullmatch(r"sqlite:///[^?]+", uri) or "memory:" in uri or "///file:" in uri
    ):
        raise UsageError(
            f"MLFLOW_TRACKING_URI={uri} names no file: a store in memory would be gone with the command.",
            hint="Unset it, or name a file or a server: sqlite:////home/me/mlflow.db, http://host:5000",
        )
    return uri


def address() -> str:
    """Return `tracking_uri` for a person to read: without user and password."""
    return without_password(tracking_uri())


def own_uri() -> str:
    """Return the address of the SQLite store under ``mlruns/``."""
    return f"sqlite:///{journals.ROOT.absolute() / 'mlflow.db'}"


def without_password(text: str) -> str:
    """Return `text` without the user and password of an address."""
    return re.sub(r"://[^/\s]*@", "://***@", text)


def own_database() -> Path | None:
    """Return the file of the store under ``mlruns/``, or None where another store is used."""
    return database_of(own_uri()) if tracking_uri() == own_uri() else None


def database_of(uri: str) -> Path:
    """Return the file of an SQLite store."""
    return Path(uri.removeprefix("sqlite:///").partition("?")[0])


def prepare(database: Path) -> None:
    """Make a local store if there is none, and see that it opens: mlflow itself would try for minutes.

    The schema is made beside and moved in whole, by one process: half a schema never opens again.
    """
    from mlflow import MlflowClient

    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(database.with_suffix(".lock")):
        if not database.exists() or database.stat().st_size == 0:
            for left in database.parent.glob("making-*"):  # by a kill
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(
                prefix="making-", dir=database.parent, ignore_cleanup_errors=True
            ) as beside:
                made = Path(beside) / "mlflow.db"
                MlflowClient(f"sqlite:///{made.absolute()}")
                shutil.copy(made, made.with_suffix(".copy"))  # Windows moves no file that is open
                os.replace(made.with_suffix(".copy"), database)
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("SELECT name FROM sqlite_master")


@contextlib.contextmanager
def reaching(uri: str, command: str = SYNC) -> Iterator[None]:
    """Say what is wrong with the store at `uri`, and that `command` is to be run when it is right.

    Raises:
        TrackerError: the store cannot be reached.
    """
    try:
        yield
    except HarnessError:
        raise
    except ModuleNotFoundError as error:
        raise lacking(error, command) from error
    except Exception as error:  # mlflow raises whatever its store raises
        reason = reason_of(error)
        raise TrackerError(
            f"MLflow at {without_password(uri)} cannot be used: {reason}.",
            hint=advice(uri, command, reason),
        ) from error


_AT_THE_DOOR = {
    "error code 401": (
        "it does not let you in",
        "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to what it knows",
    ),
    "CERTIFICATE_VERIFY_FAILED": (
        "its certificate is not trusted here",
        "Set MLFLOW_TRACKING_SERVER_CERT_PATH to a copy of it, use the name it was made for",
    ),
}
"""By what an error says: why a server cannot be used, and what to do about it before the next try."""


def lacking(error: ModuleNotFoundError, command: str) -> TrackerError:
    """Return the error for a package of MLflow's that is missing; `command` is to be run once it is there."""
    missing = not_installed(error)
    wrong = f"MLflow cannot be used: {missing.message}"
    if command != SYNC:
        return TrackerError(wrong, hint=f"{missing.hint}, and run {command}")
    elsewhere = "copy journal/ and studies/ from there into the mlruns/ of a machine that has it"
    return TrackerError(wrong, allowed=safe(), hint=f"{missing.hint}, or {elsewhere}; then run {command}")


def advice(uri: str, command: str, reason: str) -> str:
    """Return what to do about a store that cannot be used, before `command` is run."""
    if uri.startswith("sqlite:"):
        if uri == own_uri():
            return f"If {database_of(uri)} is damaged, python -m harness doctor makes it anew; else run {command}"
        return f"Move {database_of(uri)} away if it is damaged, and run {command}"
    hint = dict(_AT_THE_DOOR.values()).get(reason)
    return f"{hint}, and run {command}" if hint else f"When it is back, run {command}"


def safe() -> str:
    """Say where every result is safe."""
    return f"Every result is safe in {journals.ROOT.absolute()}."


def reason_of(error: Exception) -> str:
    """Return in a few words why a store cannot be used."""
    if re.search("Connection refused|Name or service not known|nodename nor servname|No route to host", str(error)):
        return "nobody answers there"
    for sign, (reason, _) in _AT_THE_DOOR.items():
        if sign in str(error):
            return reason
    if isinstance(error, HarnessError):
        return error.message.removesuffix(".")
    return f"{type(error).__name__}: {without_password(str(error).strip().partition(chr(10))[0][:300])}"
