"""The caller's side of a call: it launches a child, answers its questions, and trusts nothing that comes back.

1. `launch` starts the child with an order: which function, for how long, without which folders.
2. The child confines itself, and says that it has begun.
3. The caller sends the request, and answers questions until the result comes (`messages`).
4. A child that does not end so is an error, which tells its end and its last line from what it printed (`printed`).
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import harness
from harness.confine.child import Order
from harness.confine.kernel import MEMORY
from harness.confine.launch import Child, launch
from harness.confine.messages import GARBAGE, Died, received, send, text_of
from harness.confine.orders import has_nursery, send_order
from harness.confine.printed import Printed
from harness.errors import ChildDied, CrashedError, OutOfMemory, printable

START_SECONDS = 300.0
"""Seconds that the nursery may take to import, and a child to begin, on a machine that is busy."""

LONGEST = 300.0
"""Seconds that a child may take; the slowest network of this project takes 3."""

_limit = math.inf


def limit_time(hang_timeout: float) -> None:
    """Let each later call of this process end before a watchdog ends this process, so that the file is named.

    Args:
        hang_timeout: seconds without a heartbeat after which this process would be ended.
    """
    global _limit
    _limit = hang_timeout / 2


def prepare(*modules: str) -> None:
    """Start the nursery, if there is none, without waiting for it.

    Args:
        modules: names of modules that it imports, so that no call has to.
    """
    if has_nursery():
        send_order({"import": modules})


def call(
    function: str,
    request: Any,
    *,
    answer: Callable[[Any], Any] | None = None,
    seconds: float = LONGEST,
    hidden: Iterable[Path | str] = (),
    subject: str = "The confined process",
) -> Any:
    """Call a function of this package in a confined child, and return its result, a JSON value.

    The child may execute code that is not trusted: then its result is whatever that code likes. What the child prints
    is printed to stderr when it has ended.

    Args:
        function: as "package.module:name". It is called with the request and with `ask`, which sends a question to
            `answer` and returns its answer.
        request: a JSON value.
        answer: takes a question and returns the answer, both JSON values. What it raises ends the call.
        seconds: after which the child is killed, from the moment it calls the function; see also `limit_time`.
        hidden: folders that the child may not read even where they lie among Python's files. The working folder,
            `$HARNESS_DATA` and this package's checkout are hidden always.
        subject: whose code it is, for messages.

    Raises:
        ChildDied: the child ended without a result, or sent none that is JSON. Its `reason` says why.
        OutOfMemory: it needed more memory than it may have, or than there is.
    """
    seconds = min(seconds, _limit)
    child = launch(Order(function, seconds, [str(Path(folder).absolute()) for folder in (*_always_hidden(), *hidden)]))
    printed = Printed(child.output)
    try:
        with _Clock(child, START_SECONDS):
            kind, value = received(child.reply)
        if kind != "begun":
            raise Died(f"does not begin: {printable(str(value))[:500]}")
        with _Clock(child, seconds):
            return _conversation(child, request, answer)
    except Died as death:
        reason = death.reason or child.ended()
        child.close()
        raise _error(subject, reason, child.overdue, printed) from None
    except MemoryError:
        raise OutOfMemory(
            f"{subject} ran out of memory.",
            allowed=f"Its process may take {MEMORY >> 30} GiB.",
            hint="Use smaller tensors.",
        ) from None
    finally:
        child.close()
        printed.show()


def _always_hidden() -> list[str]:
    data = os.environ.get("HARNESS_DATA")
    return [".", "data", "mlruns", *([data] if data else []), str(Path(harness.__file__).parent.parent)]


class _Clock(threading.Timer):
    """Ends a child that takes longer than this block may."""

    def __init__(self, child: Child, seconds: float) -> None:
        super().__init__(seconds, child.time_out, [seconds])
        self.daemon = True

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self.cancel()


def _conversation(child: Child, request: Any, answer: Callable[[Any], Any] | None) -> Any:
    """Send the request, answer questions, and return the result."""
    message = request
    while True:
        with contextlib.suppress(BrokenPipeError):  # what it said before it ended may be a result
            send(child.request, text_of(message))
        kind, value = received(child.reply)
        if kind == "result":
            return value
        if kind == "memory":
            raise MemoryError
        if kind == "raised" and isinstance(value, str):
            raise Died(f"raised {printable(value)[:500]}")
        if kind != "ask" or answer is None:
            raise Died(GARBAGE)
        message = answer(value)


def _error(subject: str, reason: str, overdue: float | None, printed: Printed) -> CrashedError:
    """Return the error for a child that ended without a result."""
    if overdue is not None:
        reason = f"did not end within {overdue:g} s"
    elif reason == "SIGKILL":
        return OutOfMemory(
            f"{subject} was killed by SIGKILL; unless that was done by hand, this machine ran out of memory.",
            allowed="Other processes on this machine use some too.",
            hint="Run one at a time.",
        )
    elif reason == "SIGXCPU":
        reason = "used more processor time than it may"
    elif reason.startswith("SIG"):
        reason = f"was ended by {reason}"
    place = printed.place_in(subject)
    return ChildDied(
        f"{subject} {reason}{place}.",
        reason=reason,
        said=printed.text(),
        allowed="It is executed in a process of its own, which must return in time.",
        hint="Fix that line." if place else "",
    )
