"""What runs in a child: it gives up all that it can, calls one function on plain data, and hands back plain data."""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import importlib
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from harness.confine import kernel, places
from harness.confine.messages import receive, send, text_of
from harness.errors import ran_out_of_memory


@dataclass(frozen=True)
class Order:
    """What a child is to call, and under which limits.

    Attributes:
        function: as "package.module:name"; its module is imported before the child confines itself.
        seconds: of processor time, about.
        hidden: folders that it may not read even where they lie among what it may.
    """

    function: str
    seconds: float
    hidden: Sequence[str]


@dataclass(frozen=True)
class Place:
    """Where a child runs.

    Attributes:
        folder: an empty folder of its own.
        path: its `sys.path`.
        rules: descriptors of rules about files that hold for all children alike.
    """

    folder: Path
    path: Sequence[str]
    rules: Sequence[int] = ()


def run(order: Order, place: Place, request: int, reply: int) -> NoReturn:
    """Become the child: confine this process, call the function, send what it returned, and end.

    Args:
        request: descriptor of the pipe that requests and answers come from.
        reply: descriptor of the pipe that questions and the result go to.
    """
    sys.stdout, sys.stderr = (
        open(number, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False)  # noqa: SIM115
        for number in (1, 2)
    )
    try:
        with open(request, "rb") as asked, open(reply, "wb") as told:
            last = _called(order, place, asked, told)
            for number in (1, 2):  # the caller, who reads to the end, need not wait until this process is taken apart
                os.close(number)
            send(told, last)
    finally:
        os._exit(0)  # whatever is left behind, a thread or a finaliser, does not run on


def run_alone(order: dict[str, Any], folder: str) -> NoReturn:
    """Become the child in a process that is no fork: requests come from stdin, replies go to stdout."""
    request, reply = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    hidden = [Path(each) for each in order["hidden"]]
    run(Order(**order), Place(Path(folder), places.python_path(hidden)), request, reply)


def _called(order: Order, place: Place, asked: BinaryIO, told: BinaryIO) -> bytes:
    """Return the text of the last message: of the result, of an exception, or that memory ran out."""

    def ask(question: Any) -> Any:
        send(told, text_of({"ask": question}))
        return receive(asked)

    try:
        module, _, name = order.function.partition(":")
        function = getattr(importlib.import_module(module), name)
        _settle(order, place)
        send(told, text_of({"begun": None}))
        return text_of({"result": function(receive(asked), ask)})
    except BaseException as error:
        if ran_out_of_memory(error) or getattr(error, "errno", None) == errno.ENOMEM:
            return text_of({"memory": str(error)})
        traceback.print_exc()
        return text_of({"raised": "".join(traceback.format_exception_only(error)).strip()})
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # the function may have closed it
                stream.flush()


def _settle(order: Order, place: Place) -> None:
    """Leave for the folder, and give up the rest."""
    rules = kernel.file_rules([(root, True) for root in places.roots(place.path)], place.folder)
    os.chdir(place.folder)
    sys.path[:] = place.path
    sys.dont_write_bytecode = True
    os.environ.update(dict.fromkeys(("HOME", "TMPDIR"), str(place.folder)))
    tempfile.tempdir = None
    faulthandler.enable(2)  # by number: whatever a function makes of sys.stderr
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1, 2)
    kernel.limit(order.seconds)
    kernel.confine([*place.rules, *rules])
