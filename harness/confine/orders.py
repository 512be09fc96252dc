"""The caller's end of the nursery: start it in a Python that knows nothing of the caller, and send it orders."""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from typing import Any

from harness.confine.nursery import ORDER_SIZE
from harness.errors import CrashedError, printable

KEPT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE", "PYTHONHOME", "TZ", "SYSTEMROOT")
"""Variables that Python needs to start, or that say how text is written."""

SET = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    "PYTHONHASHSEED": "0",  # a set is walked through in one order, so that a file makes one graph
    "CUDA_VISIBLE_DEVICES": "",
    "LOGNAME": "nobody",  # torch names a folder after the user, whom it would look up
}

_orders: socket.socket | None = None
"""The socket to the nursery. Its messages are whole or not there, so this process's forks and threads share it."""

_started: subprocess.Popen[bytes] | None = None

_starting = threading.Lock()


def has_nursery() -> bool:
    """Whether children are forked: on Linux from 5.3 on. Libraries of other systems do not survive a fork."""
    if sys.platform != "linux":
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True


def send_order(order: dict[str, Any], descriptors: Iterable[int] = ()) -> None:
    """Send an order to the nursery; start it if there is none, or none any more.

    Raises:
        CrashedError: it does not start.
    """
    text = json.dumps(order).encode()
    assert len(text) <= ORDER_SIZE, "an order is longer than the nursery reads"
    for is_last in (False, True):
        with _starting:
            orders = nursery()
        try:
            socket.send_fds(orders, [text], [*descriptors])
            return
        except ConnectionError as error:  # it was killed
            if is_last:
                raise CrashedError(
                    "The process that forks confined ones does not start.", hint="Run the command again."
                ) from error
            _forget(orders)


def nursery() -> socket.socket:
    """Return the socket to the nursery, which is started if there is none."""
    global _orders, _started
    if _orders is None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            _started = python("nursery", "serve", theirs.fileno(), descriptors=[theirs.fileno()])
        atexit.register(_end, _started, os.getpid())
        _orders = ours
    return _orders


def _forget(orders: socket.socket) -> None:
    """Have the next order start a nursery, unless a thread has started one since."""
    global _orders
    with _starting:
        if _orders is orders:
            _orders = None
    orders.close()


def _end(started: subprocess.Popen[bytes], starter: int) -> None:
    """End a nursery that still imports with the process that started it; later it ends with all who share it."""
    if os.getpid() == starter:
        started.terminate()


def last_words() -> str:
    """Return the last line of what a nursery that has ended wrote, after a colon."""
    if _started is None or _started.stderr is None:
        return ""
    os.set_blocking(_started.stderr.fileno(), False)
    lines = (_started.stderr.read() or b"").decode("utf-8", "replace").split("\n")
    return next((f": {printable(line)}" for line in reversed(lines) if line.strip()), "")


def python(module: str, name: str, *arguments: object, descriptors: Sequence[int] = (), **pipes: int) -> Any:
    """Start a Python that calls a function of this package, and that knows nothing of this process but `sys.path`."""
    code = f"import json, sys; sys.path[:] = json.loads(sys.argv[1]); from harness.confine.{module} import {name}; "
    call = f"{name}(*json.loads(sys.argv[2]))"
    given = [json.dumps([os.path.abspath(entry) for entry in sys.path]), json.dumps(arguments)]
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [sys.executable, "-s", "-P", "-W", "ignore", "-c", code + call, *given],
        env={name: os.environ[name] for name in KEPT if name in os.environ} | SET,
        pass_fds=descriptors,
        start_new_session=True,  # Ctrl-C is for this process
        **streams | pipes,
    )


def _renew() -> None:
    global _starting
    _starting = threading.Lock()  # a thread of the parent may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
