"""The caller's side: it starts the nursery, sends orders, answers questions, and trusts nothing that comes back."""

from __future__ import annotations

import atexit
import contextlib
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import harness
from harness.confine.child import SIZE, Order, send
from harness.confine.kernel import MEMORY
from harness.confine.nursery import DUMP, KILL, ORDER_SIZE
from harness.errors import ChildDied, CrashedError, OutOfMemory, printable

MOST_BYTES = 32 << 20
"""Bytes in the longest message that is read; parsed, it can take twenty times as many."""

MOST_PRINTED = 4_000
"""Characters that are shown of what a child prints; of longer output the last."""

START_SECONDS = 300.0
"""Seconds that the nursery may take to import, and a child to begin, on a machine that is busy."""

MOMENT = 0.3
"""Seconds in which a child that is out of time writes where it stands."""

END_SECONDS = 10.0
"""Seconds that a child which was killed may take to be gone, on a machine that is busy."""


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
    order = Order(function, seconds, [str(Path(folder).absolute()) for folder in (*_always_hidden(), *hidden)])
    child = _Forked(order) if _has_nursery() else _Spawned(order)
    printed = _Printed(child.output)
    try:
        with _Clock(child, START_SECONDS):
            kind, value = _received(child.reply)
        if kind != "begun":
            raise _Died(f"does not begin: {printable(str(value))[:500]}")
        with _Clock(child, seconds):
            return _conversation(child, request, answer)
    except _Died as death:
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


def prepare(*modules: str) -> None:
    """Start the nursery, if there is none, without waiting for it.

    Args:
        modules: names of modules that it imports, so that no call has to.
    """
    if _has_nursery():
        _send_order({"import": modules})


def _always_hidden() -> list[str]:
    data = os.environ.get("HARNESS_DATA")
    return [".", "data", "mlruns", *([data] if data else []), str(Path(harness.__file__).parent.parent)]


# --- one call ---------------------------------------------------------------------------------------------


class _Died(Exception):
    """The child said nothing more, or nothing that has a meaning; the reason is empty where its end tells it."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


def _conversation(child: _Child, request: Any, answer: Callable[[Any], Any] | None) -> Any:
    """Send the request, answer questions, and return the result."""
    message = request
    while True:
        with contextlib.suppress(BrokenPipeError):  # what it said before it ended may be a result
            send(child.request, message)
        kind, value = _received(child.reply)
        if kind == "result":
            return value
        if kind == "memory":
            raise MemoryError
        if kind == "raised" and isinstance(value, str):
            raise _Died(f"raised {printable(value)[:500]}")
        if kind != "ask" or answer is None:
            raise _Died(GARBAGE)
        message = answer(value)


GARBAGE = "wrote something else into the harness's pipe"


def _received(file: BinaryIO) -> tuple[str, Any]:
    """Return the kind of the next message and what it holds.

    Strings hold no half characters (lone surrogates), which no file takes, and numbers are finite.
    """
    try:
        size = file.read(SIZE)
        if len(size) < SIZE:
            raise _Died
        if (length := int.from_bytes(size)) > MOST_BYTES:
            raise _Died(f"handed over more than {MOST_BYTES >> 20} MiB")
        text = file.read(length)
    except OSError:
        raise _Died from None
    if len(text) < length:
        raise _Died
    try:
        message = json.loads(text.decode(), parse_constant=_refuse, parse_float=_finite)
        ((kind, value),) = message.items()
    except (ValueError, AttributeError, RecursionError, MemoryError):
        raise _Died(GARBAGE) from None
    if _HALF_CHARACTER.search(text):
        raise _Died(GARBAGE)
    return kind, value


_HALF_CHARACTER = re.compile(rb"(?<!\\)(?:\\\\)*\\u[dD][89a-fA-F]")
"""An escaped surrogate; `send` writes none, and a whole character outside the first plane as it is."""


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def _finite(number: str) -> float:
    value = float(number)
    return value if math.isfinite(value) else _refuse(number)


def _error(subject: str, reason: str, overdue: float | None, printed: _Printed) -> CrashedError:
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
    said = printed.text()
    line = re.search(rf'File "{re.escape(subject)}", line (\d+)', _STACK.split(said, 1)[-1])
    return ChildDied(
        f"{subject} {reason}{f' at {subject}:{line[1]}' if line else ''}.",
        reason=reason,
        said=said,
        allowed="It is executed in a process of its own, which must return in time.",
        hint="Fix that line." if line else "",
    )


_STACK = re.compile(r"^(?=Fatal Python error: |(?:Current t|T)hread 0x)", re.MULTILINE)
"""Where the stack begins that Python writes at a crash, or when the time is over."""


class _Clock(threading.Timer):
    """Ends a child that takes longer than this block may."""

    def __init__(self, child: _Child, seconds: float) -> None:
        super().__init__(seconds, child.time_out, [seconds])
        self.daemon = True

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self.cancel()


class _Printed:
    """What a child prints, read as it comes so that it never waits; the last of it is kept."""

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe, self._kept, self._left_out = pipe, b"", 0
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._pipe, contextlib.suppress(OSError):
            while more := os.read(self._pipe.fileno(), 1 << 16):
                whole = self._kept + more
                self._kept = whole[-4 * MOST_PRINTED :]  # a character has up to four bytes
                self._left_out += len(whole) - len(self._kept)

    def text(self) -> str:
        """Return it, when the child has ended, without what a terminal could act on."""
        self._thread.join(END_SECONDS)
        text = self._kept.decode("utf-8", "replace")
        if self._left_out or len(text) > MOST_PRINTED:
            text = f"(the end of what was printed)\n{text[-MOST_PRINTED:]}"
        return "\n".join(printable(line.expandtabs()) for line in text.splitlines())

    def show(self) -> None:
        """Print it, without the stack of a crash."""
        if text := _STACK.split(self.text(), 1)[0].rstrip():
            with contextlib.suppress(OSError):  # the reader may be gone
                print(text, file=sys.stderr, flush=True)


# --- a child ----------------------------------------------------------------------------------------------


class _Child:
    """A child and the pipes to it."""

    request: BinaryIO
    reply: BinaryIO
    output: BinaryIO
    overdue: float | None = None

    def time_out(self, seconds: float) -> None:
        """Have it write where it stands, and end it: it has taken all its seconds."""
        self.overdue = seconds
        self._dump()
        time.sleep(MOMENT)
        self._kill()

    def ended(self) -> str:
        """Wait until it has ended; return the name of the signal that ended it, or say that it ended by itself."""
        code = self._wait()
        if code is None:
            return f"did not begin, or ended with the one that forks it{_last_words()}"
        if code >= 0:
            return f"ended by itself, with code {code}"
        known = {number.value: number.name for number in signal.Signals}
        return known.get(-code, f"signal {-code}")

    def close(self) -> None:
        """End it, if it has not ended; a second time this does nothing."""
        self._kill()
        for file in (self.request, self.reply):
            with contextlib.suppress(OSError):  # what the pipe could not take is not sent
                file.close()

    def _dump(self) -> None:
        raise NotImplementedError

    def _kill(self) -> None:
        raise NotImplementedError

    def _wait(self) -> int | None:
        raise NotImplementedError


class _Forked(_Child):
    """A child of the nursery."""

    def __init__(self, order: Order) -> None:
        (theirs_in, ours_in), (ours_out, theirs_out), (ours_printed, theirs_printed) = os.pipe(), os.pipe(), os.pipe()
        self._watch, theirs = socket.socketpair()
        self.request, self.reply = open(ours_in, "wb"), open(ours_out, "rb")  # noqa: SIM115
        self.output = open(ours_printed, "rb", buffering=0)  # noqa: SIM115
        with theirs:
            given = [theirs_in, theirs_out, theirs_printed]
            try:
                module = order.function.partition(":")[0]
                _send_order({"import": [module], **asdict(order)}, [*given, theirs.fileno()])
            finally:
                for each in given:
                    os.close(each)

    def _dump(self) -> None:
        self._say(DUMP)

    def _kill(self) -> None:
        self._say(KILL)

    def _say(self, word: bytes) -> None:
        with contextlib.suppress(OSError):  # it has ended
            self._watch.sendall(word)

    def _wait(self) -> int | None:
        with contextlib.suppress(OSError):
            if code := self._watch.recv(16):
                return int(code)
        return None

    def close(self) -> None:
        """End it, if it has not ended."""
        super().close()
        self._watch.close()


class _Spawned(_Child):
    """A child that is a new process, where the system has no nursery."""

    def __init__(self, order: Order) -> None:
        self._folder = tempfile.mkdtemp(prefix="harness-")
        pipe = subprocess.PIPE
        self._process = _python("child", "run_alone", asdict(order), self._folder, stdin=pipe, stdout=pipe)
        self.request, self.reply, self.output = self._process.stdin, self._process.stdout, self._process.stderr

    def _dump(self) -> None:
        if hasattr(signal, "SIGUSR1"):
            self._process.send_signal(signal.SIGUSR1)

    def _kill(self) -> None:
        self._process.kill()

    def _wait(self) -> int:
        return self._process.wait()

    def close(self) -> None:
        """End it, if it has not ended."""
        super().close()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


# --- the nursery ------------------------------------------------------------------------------------------

_orders: socket.socket | None = None
"""The socket to the nursery. Its messages are whole or not there, so this process's forks and threads share it."""

_started: subprocess.Popen[bytes] | None = None

_starting = threading.Lock()


def _has_nursery() -> bool:
    """Whether children are forked: on Linux from 5.3 on. Libraries of other systems do not survive a fork."""
    if sys.platform != "linux":
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True


def _send_order(order: dict[str, Any], descriptors: Iterable[int] = ()) -> None:
    """Send an order to the nursery; start it if there is none, or none any more."""
    text = json.dumps(order).encode()
    assert len(text) <= ORDER_SIZE, "an order is longer than the nursery reads"
    for is_last in (False, True):
        with _starting:
            orders = _nursery()
        try:
            socket.send_fds(orders, [text], [*descriptors])
            return
        except ConnectionError as error:  # it was killed
            if is_last:
                raise CrashedError(
                    "The process that forks confined ones does not start.", hint="Run the command again."
                ) from error
            _forget(orders)


def _nursery() -> socket.socket:
    global _orders, _started
    if _orders is None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            _started = _python("nursery", "serve", theirs.fileno(), descriptors=[theirs.fileno()])
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


def _end(nursery: subprocess.Popen[bytes], starter: int) -> None:
    """End a nursery that still imports with the process that started it; later it ends with all who share it."""
    if os.getpid() == starter:
        nursery.terminate()


def _last_words() -> str:
    """Return the last line of what a nursery that has ended wrote, after a colon."""
    if _started is None or _started.stderr is None:
        return ""
    os.set_blocking(_started.stderr.fileno(), False)
    lines = (_started.stderr.read() or b"").decode("utf-8", "replace").split("\n")
    return next((f": {printable(line)}" for line in reversed(lines) if line.strip()), "")


def _python(module: str, name: str, *arguments: object, descriptors: Sequence[int] = (), **pipes: int) -> Any:
    """Start a Python that calls a function of this package, and that knows nothing of this process but `sys.path`."""
    code = f"import json, sys; sys.path[:] = json.loads(sys.argv[1]); from harness.confine.{module} import {name}; "
    call = f"{name}(*json.loads(sys.argv[2]))"
    given = [json.dumps([os.path.abspath(entry) for entry in sys.path]), json.dumps(arguments)]
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [sys.executable, "-s", "-P", "-W", "ignore", "-c", code + call, *given],
        env={name: os.environ[name] for name in _KEPT if name in os.environ} | _SET,
        pass_fds=descriptors,
        start_new_session=True,  # Ctrl-C is for this process
        **streams | pipes,
    )


_KEPT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE", "PYTHONHOME", "TZ", "SYSTEMROOT")
"""Variables that Python needs to start, or that say how text is written."""

_SET = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    "PYTHONHASHSEED": "0",  # a set is walked through in one order, so that a file makes one graph
    "CUDA_VISIBLE_DEVICES": "",
    "LOGNAME": "nobody",  # torch names a folder after the user, whom it would look up
}


def _renew() -> None:
    global _starting
    _starting = threading.Lock()  # a thread of the parent may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
