"""Every error a user can cause, and the exit code each ends with.

    HarnessError                 1   a bug in the harness, if nothing more precise was raised
    ├── UsageError               2   the command line, a recipe or a knob is not legal
    ├── Refusal                      a plug-in is refused; carries the id of the rule it breaks
    │   ├── ContractError        2   the file breaks the plug-in contract
    │   ├── BudgetError          3   too many parameters or too many epochs
    │   └── AuditError           4   the network hides state, draws lots, cannot be exported, ...
    ├── DataError                5   a dataset is missing, damaged or cannot be fetched
    ├── DivergedError            6   the loss became infinite or not a number
    ├── TrackerError             7   the result is safe in the journal; MLflow could not be reached
    └── CrashedError             8   a process broke down, or got no further
        ├── ClusterLost          8   whoever was to train is gone
        │   └── WorkerLost       8   a worker of a cluster is gone, and another begins its run anew
        └── OutOfMemory          8   there was not enough memory for it

Each is raised anywhere and caught in one place, `harness.cli.main`, which prints its lines: what is
wrong, what is legal, what to do next.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any


class HarnessError(Exception):
    """What is wrong, what is legal and what to do next, each in one line.

    Args:
        message: what is wrong.
        allowed: what would have been legal; may be empty where `message` already says it.
        hint: what the user should do next.
    """

    exit_code = 1

    def __init__(self, message: str, *, allowed: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.allowed = allowed
        self.hint = hint

    @property
    def lines(self) -> list[str]:
        """The message as printed, one entry a line."""
        return [line for line in (self.message, self.allowed, self.hint) if line]

    def __reduce__(self) -> tuple[Any, ...]:
        """Cross from one process to another whole, whatever a subclass takes to be made."""
        return _restored, (type(self), self.message, self.__dict__)


def _restored(kind: type[HarnessError], message: str, facts: dict[str, Any]) -> HarnessError:
    error = kind.__new__(kind, message)
    error.__dict__.update(facts)
    return error


class UsageError(HarnessError):
    """A command line, recipe or knob that is not legal."""

    exit_code = 2


class Refusal(HarnessError):
    """A plug-in that is refused by the rule with id `rule`, caused at `where` (``file:line``)."""

    def __init__(self, rule: str, message: str, *, where: str = "", allowed: str = "", hint: str = "") -> None:
        super().__init__(message, allowed=allowed, hint=hint)
        self.rule = rule
        self.where = where

    @property
    def lines(self) -> list[str]:
        """The message as printed, headed by the rule's id and followed by the cause's line."""
        first = f"[{self.rule}] {self.message}" + (f" ({self.where})" if self.where else "")
        return [first, *super().lines[1:]]


class ContractError(Refusal):
    """A file that breaks the plug-in contract."""

    exit_code = 2


class BudgetError(Refusal):
    """A network or a recipe over the budget, by `excess` stored numbers or epochs."""

    exit_code = 3

    def __init__(
        self, rule: str, message: str, *, excess: int = 1, where: str = "", allowed: str = "", hint: str = ""
    ) -> None:
        super().__init__(rule, message, where=where, allowed=allowed, hint=hint)
        self.excess = excess


class AuditError(Refusal):
    """A network whose stored numbers or behaviour the audit cannot vouch for."""

    exit_code = 4


class DataError(HarnessError):
    """A dataset that is missing, damaged or cannot be fetched."""

    exit_code = 5


class DivergedError(HarnessError):
    """A training loss that became infinite or not a number."""

    exit_code = 6


class TrackerError(HarnessError):
    """The result is safe in the journal; MLflow could not be reached."""

    exit_code = 7


class CrashedError(HarnessError):
    """A process that broke down, or got no further."""

    exit_code = 8


class ClusterLost(CrashedError):
    """Whoever was to train is gone, for which no network can be blamed."""


class WorkerLost(ClusterLost):
    """A worker of a cluster that had begun a run is gone, and another begins it anew."""


class OutOfMemory(CrashedError):
    """Not enough memory for a network or its batches."""

    @classmethod
    def of(cls, path: str, error: BaseException) -> OutOfMemory:
        """Say so of the plug-in at `path`, in the words of what was raised."""
        if isinstance(error, OutOfMemory):
            return error
        return cls(
            f"{path} ran out of memory: {str(error).strip().partition(chr(10))[0]}",
            allowed="It needs more with a larger batch_size or larger maps; what else runs here needs some, too.",
            hint="Take a smaller batch_size, narrower layers, or one run at a time.",
        )


_PACKAGES = {"sklearn": "scikit-learn", "PIL": "pillow"}
"""Modules whose package has another name."""


def not_installed(error: ModuleNotFoundError) -> UsageError:
    """Say which of the packages that the harness needs is missing, and how to get it."""
    name = str(error.name).partition(".")[0]
    return UsageError(f"{name} is not installed here.", hint=f"pip install {_PACKAGES.get(name, name)}")


def ran_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, says that memory could not be had; torch has no one type for it."""
    while error:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return True
        if isinstance(error, RuntimeError) and re.search("can't allocate memory|not enough memory", str(error)):
            return True
        error = error.__cause__
    return False


def device_hint(message: str) -> str:
    """Return how to mend a plug-in that places tensors itself, if torch says with `message` that it does, or ''."""
    if not re.search(r"\bdevices?\b|CUDA|NVIDIA", message):
        return ""
    return "The harness moves a network and its images: take out .cuda(), .to(...) and device=."


def printable(text: str) -> str:
    """Return `text` with a question mark for every character that a terminal might obey."""
    return "".join(character if character.isprintable() else "?" for character in text)


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Return ``Did you mean 'width'?`` for the closest legal name, or an empty string."""
    close = difflib.get_close_matches(name, list(allowed), n=1)
    return f"Did you mean '{close[0]}'?" if close else ""
