"""The nursery: a process that has imported all that a child needs, holds nothing else, and forks each child.

It is started with the environment that Python needs and no other, and learns of a call only the function's name. Its
one thread waits for orders and for its children's ends: a process with threads does not fork well.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NoReturn

from harness.confine import kernel, places
from harness.confine.child import Order, Place, run
from harness.confine.scratch import remove
from harness.confine.warm import warm_up

ORDER_SIZE = 1 << 16
"""Bytes in the longest order."""

PIPES = 4
"""Descriptors that come with an order: the child's three pipes, and the socket over which it is watched."""

DUMP, KILL = b"d", b"k"
"""What the caller says over that socket: the child shall write where it stands; the child shall end."""


@dataclass
class Born:
    """A child, with its folder and the socket of the caller who watches it, and the kernel's handle of it."""

    pid: int
    folder: Path
    watch: socket.socket
    handle: int


def serve(descriptor: int) -> NoReturn:
    """Import, then fork a child for each order, until all callers have closed the other end."""
    orders = socket.socket(fileno=descriptor)
    os.chdir("/")
    import torch

    with contextlib.suppress(ImportError):  # torch shows a bar, which has a thread that would not survive a fork
        importlib.import_module("tqdm").tqdm.monitor_interval = 0
    torch.set_num_threads(1)
    warm_up()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # from here on it ends when all have closed, and tidies up
    home = os.getpid()
    folders = Path(tempfile.mkdtemp(prefix="harness-"))
    children: list[Born] = []
    while True:
        poll = select.poll()
        for waited_for in (orders, *(place for born in children for place in (born.watch, born.handle))):
            poll.register(waited_for, select.POLLIN)
        ready = {number for number, _ in poll.poll()}
        for born in [*children]:
            if born.handle in ready:
                children.remove(born)
                _bury(born)
            elif born.watch.fileno() in ready:
                _obey(born)
        if orders.fileno() in ready:
            message, descriptors, _, _ = socket.recv_fds(orders, ORDER_SIZE, PIPES)
            if not message:
                break
            for module in (order := json.loads(message)).pop("import"):
                with contextlib.suppress(Exception):  # the child imports it again, and reports
                    importlib.import_module(module)
            if descriptors:
                children.append(_bear(Order(**order), descriptors, home, folders))
            gc.freeze()  # what children share stays shared
    for born in children:
        os.kill(born.pid, signal.SIGKILL)
        _bury(born)
    with contextlib.suppress(OSError):
        remove(folders)
    os._exit(0)  # libraries that torch loads complain when they are taken apart


def _bear(order: Order, descriptors: list[int], home: int, folders: Path) -> Born:
    """Fork a child."""
    request, reply, output, watch = descriptors
    hidden = [Path(each) for each in order.hidden]
    path = places.python_path(hidden)
    changed = tuple(os.stat(entry).st_mtime_ns for entry in path)  # a package may have been installed since
    rules = _rules(tuple(path), changed, places.data_in(path, hidden), folders)
    folder = Path(tempfile.mkdtemp(dir=folders))
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            kernel.end_with_the_parent()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            if os.getppid() == home:  # else it had ended before the kernel was told
                os.dup2(output, 1)
                os.dup2(output, 2)
                _close_all_but({0, 1, 2, request, reply, *rules})
                run(order, Place(folder, path, rules), request, reply)
        finally:
            os._exit(1)
    for each in (request, reply, output):
        os.close(each)
    return Born(pid, folder, socket.socket(fileno=watch), os.pidfd_open(pid))


@lru_cache(1)
def _rules(path: tuple[str, ...], changed: tuple[int, ...], away: frozenset[Path], folders: Path) -> list[int]:
    """Return the rules about files for all children: there are hundreds, so they are made once.

    Each child adds some of its own, which leave it one of the folders.
    """
    return kernel.file_rules(places.readable(path, away), folders)


def _close_all_but(kept: set[int]) -> None:
    begin = 0
    for end in (*sorted(kept), os.sysconf("SC_OPEN_MAX")):
        if begin < end:  # closerange(0, 0) would close all
            os.closerange(begin, end)
        begin = end + 1


def _obey(born: Born) -> None:
    """Do what the caller says of a child; a caller that has gone away wants none."""
    with contextlib.suppress(ConnectionError):
        if born.watch.recv(1) == DUMP:
            os.kill(born.pid, signal.SIGUSR1)
            return
    os.kill(born.pid, signal.SIGKILL)


def _bury(born: Born) -> None:
    """Report how a child ended, and remove what it left."""
    status = os.waitstatus_to_exitcode(os.waitpid(born.pid, 0)[1])
    with contextlib.suppress(OSError):  # the caller has gone away
        born.watch.sendall(str(status).encode())
    born.watch.close()
    os.close(born.handle)
    with contextlib.suppress(OSError):
        remove(born.folder)
