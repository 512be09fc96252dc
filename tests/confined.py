"""Functions that `test_confine.py` calls in confined children."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Ask = Callable[[Any], Any]


def echo(request: Any, ask: Ask) -> Any:
    return request


def execute(request: str, ask: Ask) -> Any:
    """Execute code, and return what it leaves as `result`."""
    names = {"ask": ask, "result": None}
    exec(compile(request, "untrusted.py", "exec"), names)
    return names["result"]


def attempt(request: str, ask: Ask) -> str:
    """Execute code, and return the name of what it raises."""
    try:
        execute(request, ask)
    except BaseException as error:
        return type(error).__name__
    return "done"
