"""Every error a user can cause, and the exit code each ends with.

    HarnessError                 1   a bug in the harness, unless a subclass was raised
    ├── UsageError               2   the command line, a recipe or a knob is not allowed
    ├── Refusal                      a plug-in is refused; carries the id of the rule it breaks
    │   ├── ContractError        2   the file breaks the plug-in contract
    │   ├── BudgetError          3   too many parameters or too many epochs
    │   └── AuditError           4   the network hides state, is random at evaluation, cannot be exported, ...
    ├── DataError                5   a dataset is missing, damaged or cannot be downloaded
    ├── DivergedError            6   the loss became infinite or NaN
    ├── TrackerError             7   the result is saved in the journal; MLflow could not be reached
    └── CrashedError             8   a process crashed or hung
        ├── ClusterLost          8   the connection to the cluster is lost, or it has no workers left
        │   └── WorkerLost       8   a worker of a cluster is lost; its run is restarted on another worker
        ├── ChildDied            8   a confined process ended without a result
        └── OutOfMemory          8   there was not enough memory

An error may be raised anywhere. It is caught in one place, `harness.cli.main`, which prints its lines: the
problem, what is allowed, and what to do next.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any


class HarnessError(Exception):
    """An error with three lines for the user: the problem, what is allowed, and what to do next.

    Args:
        message: the problem.
        allowed: what would have been allowed; may be empty where `message` already says it.
        hint: what the user should do next.
    """

    exit_code = 1

    def __init__(self, message: str, *, allowed: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.allowed = allowed
        self.hint = hint
        for line in filter(None, (allowed, hint)):
            self.add_note(line)  # a traceback shows them, in a notebook too

    @property
    def lines(self) -> list[str]:
        """The message as printed, one entry a line."""
        return [line for line in (self.message, self.allowed, self.hint) if line]

    def __reduce__(self) -> tuple[Any, ...]:
        """Support pickling between processes, whatever arguments the constructor of a subclass takes."""
        return _restored, (type(self), self.message, self.__dict__)


def _restored(kind: type[HarnessError], message: str, attributes: dict[str, Any]) -> HarnessError:
    error = kind.__new__(kind, message)
    error.__dict__.update(attributes)
    return error


class UsageError(HarnessError):
    """A command line, recipe or knob that is not allowed."""

    exit_code = 2


class Refusal(HarnessError):
    """A plug-in refused under the rule with id `rule`; `where` is the line that causes it (``file:line``)."""

    def __init__(self, rule: str, message: str, *, where: str = "", allowed: str = "", hint: str = "") -> None:
        super().__init__(message, allowed=allowed, hint=hint)
        self.rule = rule
        self.where = where

    @property
    def lines(self) -> list[str]:
        """The message as printed: the rule's id first, and the line that causes it at the end of the first line."""
        first = f"[{self.rule}] {self.message}" + (f" ({self.where})" if self.where else "")
        return [first, *super().lines[1:]]


class ContractError(Refusal):
    """A file that breaks the plug-in contract."""

    exit_code = 2


class BudgetError(Refusal):
    """A network or a recipe that exceeds the budget by `excess` stored numbers or epochs."""

    exit_code = 3

    def __init__(
        self, rule: str, message: str, *, excess: int = 1, where: str = "", allowed: str = "", hint: str = ""
    ) -> None:
        super().__init__(rule, message, where=where, allowed=allowed, hint=hint)
        self.excess = excess


class AuditError(Refusal):
    """A network whose stored numbers cannot be counted, or whose behaviour the audit does not allow."""

    exit_code = 4


class DataError(HarnessError):
    """A dataset that is missing, damaged or cannot be downloaded."""

    exit_code = 5


class DivergedError(HarnessError):
    """A training loss that became infinite or NaN."""

    exit_code = 6


class TrackerError(HarnessError):
    """MLflow could not be reached; the result is saved in the journal."""

    exit_code = 7


class CrashedError(HarnessError):
    """A process that crashed or hung."""

    exit_code = 8


class ClusterLost(CrashedError):
    """The cluster that was to train a network is lost. The network is not the cause."""


class WorkerLost(ClusterLost):
    """A worker of a cluster is lost during a run. The run is restarted on another worker."""


class ChildDied(CrashedError):
    """A confined process that ended without a result.

    Args:
        reason: why, as the end of a sentence.
        said: the last of what it printed, with the line it was at if it crashed or ran out of time.
    """

    def __init__(self, message: str, *, reason: str = "", said: str = "", allowed: str = "", hint: str = "") -> None:
        super().__init__(message, allowed=allowed, hint=hint)
        self.reason = reason
        self.said = said


class OutOfMemory(CrashedError):
    """Not enough memory for a network or its batches."""

    @classmethod
    def of(cls, path: str, error: BaseException) -> OutOfMemory:
        """Return the error for the plug-in at `path`, with the first line of what was raised."""
        if isinstance(error, OutOfMemory):
            return error
        return cls(
            f"{path} ran out of memory: {str(error).strip().partition(chr(10))[0]}",
            allowed="Memory grows with batch_size and the feature maps; other processes on this machine use some too.",
            hint="Use a smaller batch_size, narrower layers, or one run at a time.",
        )


_PACKAGES = {"sklearn": "scikit-learn", "PIL": "pillow"}
"""Modules whose package on PyPI has another name."""


def not_installed(error: ModuleNotFoundError) -> UsageError:
    """Return the error for a missing package of the harness's requirements, with the command that installs it."""
    name = str(error.name).partition(".")[0]
    return UsageError(f"{name} is not installed here.", hint=f"pip install {_PACKAGES.get(name, name)}")


def ran_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error or one of its causes is a failed allocation; torch has no single type for it."""
    while error:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return True
        if isinstance(error, RuntimeError) and re.search("can't allocate memory|not enough memory", str(error)):
            return True
        error = error.__cause__
    return False


def device_hint(message: str) -> str:
    """Return the hint for a plug-in that chooses devices itself, if `message` is about devices; else ''."""
    if not re.search(r"\bdevices?\b|CUDA|NVIDIA", message):
        return ""
    return "The harness moves a network and its images: take out .cuda(), .to(...) and device=."


def printable(text: str) -> str:
    """Return `text` with a question mark for each unprintable character: a terminal could act on it."""
    return "".join(character if character.isprintable() else "?" for character in text)


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Return ``Did you mean 'width'?`` for the closest allowed name, or an empty string."""
    close = difflib.get_close_matches(name, list(allowed), n=1)
    return f"Did you mean '{close[0]}'?" if close else ""
