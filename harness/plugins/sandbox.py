"""Run a plug-in's code, and attribute what it raises or changes to its line. A malicious file is not isolated."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from harness.errors import ContractError, OutOfMemory, device_hint, ran_out_of_memory


def blame(error: BaseException, path: str) -> str:
    """Return ``path:line`` of the innermost line of the plug-in in the traceback of `error`, or an empty string."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return f"{path}:{lines[-1]}" if lines else ""


def _describe(error: BaseException) -> str:
    try:
        text = str(error).strip().partition("\n")[0]
    except Exception:  # an exception class of the plug-in whose __str__ raises
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextlib.contextmanager
def running_plugin(path: str, rule: str, message: str, hint: str) -> Iterator[None]:
    """Run a block of a plug-in's code, and raise a `ContractError` with its line for anything that it raises.

    Args:
        path: path of the plug-in.
        rule: id of the rule that an exception breaks.
        message: start of the message, before the exception.
        hint: what the user should do.

    Raises:
        ContractError: the code raised (also ``SystemExit``), forked, or changed a setting of the process.
        OutOfMemory: there is not enough memory.
    """
    try:
        with in_one_process(path), _unchanged_settings(path):
            yield
    except (ContractError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if ran_out_of_memory(error):
            raise OutOfMemory.of(path, error) from error
        said = _describe(error)
        raise ContractError(
            rule, f"{message} {said}", where=blame(error, path), hint=device_hint(said) or hint
        ) from error


@contextlib.contextmanager
def in_one_process(path: str) -> Iterator[None]:
    """Run a block of code of the plug-in at `path`, and refuse it if it forks: the child would write the same records.

    Raises:
        ContractError: it forked. The child process exits before it runs any line.
    """
    _watch_forks()
    _running.append(path)
    known = len(_forks)
    try:
        yield
    finally:
        _running.pop()
        forks = _forks[known:]
        del _forks[known:]
        if forks:
            raise ContractError(
                "forks",
                "The file forks the process.",
                where=forks[0],
                allowed="A plug-in builds a network in the process that runs it.",
                hint="Remove os.fork or multiprocessing.",
            )


_running: list[str] = []
_forks: list[str] = []


@functools.cache
def _watch_forks() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_note_fork, after_in_child=_exit_child)


def _note_fork() -> None:
    for path in _running[-1:]:
        lines = [frame.lineno for frame in traceback.extract_stack() if frame.filename == path]
        _forks.append(f"{path}:{lines[-1]}" if lines else path)


def _exit_child() -> None:
    if _running:
        os._exit(0)


@contextlib.contextmanager
def _unchanged_settings(path: str) -> Iterator[None]:
    """Refuse a plug-in that changes a setting of the process, which could change the results of every later run."""
    before = {name: read() for name, (read, _) in _SETTINGS.items()}
    try:
        yield
    finally:
        changed = [name for name, (read, _) in _SETTINGS.items() if read() != before[name]]
        for name in changed:
            _SETTINGS[name][1](before[name])
    if changed:
        raise ContractError(
            "global-state",
            f"The file changes {', '.join(changed)} for the whole process.",
            where=path,
            allowed="A plug-in builds a network and leaves the settings of the process as they are.",
            hint="Remove that line; the harness sets precision and threads.",
        )


_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGTSTP") if hasattr(signal, name)]


def _restore_streams(streams: tuple[Any, Any]) -> None:
    sys.stdout, sys.stderr = streams


def _restore_handlers(handlers: Sequence[Any]) -> None:
    for number, handler in zip(_SIGNALS, handlers, strict=True):
        if handler is not None:  # None for a handler not set by Python, which cannot be restored
            signal.signal(number, handler)


_SETTINGS: Mapping[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's default device": (torch.get_default_device, lambda _: torch.set_default_device(None)),
    "torch's gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's threads": (torch.get_num_threads, torch.set_num_threads),
    "the working directory": (os.getcwd, os.chdir),
    "the standard streams": (lambda: (sys.stdout, sys.stderr), _restore_streams),
    "signal handlers": (lambda: [signal.getsignal(number) for number in _SIGNALS], _restore_handlers),
}
