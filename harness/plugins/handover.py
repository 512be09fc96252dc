"""Call a function of the harness in the confined process of a plug-in, and pass its refusals on as plain data."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

from harness import confine
from harness.errors import AuditError, ContractError, HarnessError, OutOfMemory, Refusal, UsageError, printable

_LONGEST = 2_000

_KINDS: dict[str, type[HarnessError]] = {
    kind.__name__: kind for kind in (ContractError, AuditError, UsageError, OutOfMemory)
}
"""The errors that a plug-in's process may report; it counts nothing, so no `BudgetError`."""


def run_confined(function: str, request: Any, answer: Callable[[Any], Any] | None = None) -> Any:
    """Run a function that ends in `reply`, in the process of a plug-in, and return its result, which is not checked.

    Args:
        function: ``package.module:name``.
        request: its argument, as JSON values.
        answer: answers what the process asks meanwhile.

    Raises:
        HarnessError: the function raised it; or the process died, hung, or was out of memory.
    """
    confine.warm_up()  # the process that runs plug-ins is doing the same
    if answer:
        returned = confine.call(function, request, answer=answer, subject=request["path"])
    else:
        returned = _remembered(function, json.dumps(request))
    if isinstance(returned, dict) and isinstance(refused := returned.get("refused"), dict):
        raise error_of(refused)
    return returned.get("result") if isinstance(returned, dict) else None


@functools.lru_cache(maxsize=100)
def _remembered(function: str, request: str) -> Any:
    """Call a function whose result follows from the request: a file that is asked again need not be executed again."""
    asked = json.loads(request)
    return confine.call(function, asked, subject=asked["path"])


def reply(work: Callable[[], Any]) -> dict[str, Any]:
    """Return the result of `work`, or the error that it raised, as data; runs in the process of a plug-in."""
    try:
        return {"result": work()}
    except HarnessError as error:
        return {"refused": as_data(error)}


def as_data(error: HarnessError) -> dict[str, str]:
    """Return an error as JSON values."""
    names = ("message", "allowed", "hint", "rule", "where")
    return {"kind": type(error).__name__} | {name: getattr(error, name, "") for name in names}


def error_of(refused: Mapping[str, Any]) -> HarnessError:
    """Return the error that `as_data` wrote, or another one if the process of a plug-in made it up."""
    given = {name: refused.get(name) for name in ("message", "allowed", "hint", "rule", "where")}
    said = {name: printable(text[:_LONGEST]) if isinstance(text, str) else "" for name, text in given.items()}
    kind = _KINDS.get(str(refused.get("kind")), ContractError)
    shown = {"allowed": said["allowed"], "hint": said["hint"]}
    if issubclass(kind, Refusal):
        return kind(said["rule"], said["message"], where=said["where"], **shown)
    return kind(said["message"], **shown)
