"""A plug-in's code at work: what it raises or changes is blamed on its line. Nothing here isolates a hostile file."""

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
    """Return ``file:line`` of the innermost line of the plug-in at `path` that led to `error`, or an empty string."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return f"{path}:{lines[-1]}" if lines else ""


def _describe(error: BaseException) -> str:
    try:
        text = str(error).strip().partition("\n")[0]
    except Exception:  # an exception of the plug-in's own
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextlib.contextmanager
def running_plugin(path: str, rule: str, wrong: str, hint: str) -> Iterator[None]:
    """Run a plug-in's own code: whatever it raises, also ``SystemExit``, is its fault and blamed on its line."""
    try:
        with in_one_process(path), _settings_left_alone(path):
            yield
    except (ContractError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if ran_out_of_memory(error):
            raise OutOfMemory.of(path, error) from error
        said = _describe(error)
        raise ContractError(
            rule, f"{wrong} {said}", where=blame(error, path), hint=device_hint(said) or hint
        ) from error


@contextlib.contextmanager
def in_one_process(path: str) -> Iterator[None]:
    """Run code of the plug-in at `path` that may not fork: the copy would train as well, into the same records.

    Raises:
        ContractError: it did, whatever it raised then; the copy was ended before it ran a line.
    """
    _hear_of_forks()
    _at_work.append(path)
    begun = len(_forks)
    try:
        yield
    finally:
        _at_work.pop()
        forks = _forks[begun:]
        del _forks[begun:]
        if forks:
            raise ContractError(
                "forks",
                "The file makes a copy of the process.",
                where=forks[0],
                allowed="A plug-in builds a network, in the process it is run in.",
                hint="Take os.fork or multiprocessing out.",
            )


_at_work: list[str] = []
_forks: list[str] = []


@functools.cache
def _hear_of_forks() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_note_fork, after_in_child=_end_copy)


def _note_fork() -> None:
    for path in _at_work[-1:]:
        lines = [frame.lineno for frame in traceback.extract_stack() if frame.filename == path]
        _forks.append(f"{path}:{lines[-1]}" if lines else path)


def _end_copy() -> None:
    if _at_work:
        os._exit(0)


@contextlib.contextmanager
def _settings_left_alone(path: str) -> Iterator[None]:
    """Refuse a plug-in that changes a setting of the process: the next file, and every run's bits, would change."""
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
            f"The file changes {', '.join(changed)} for everybody.",
            where=path,
            allowed="A plug-in builds a network and leaves the settings of the process as they are.",
            hint="Take that line out; precision and threads are the harness's.",
        )


_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGTSTP") if hasattr(signal, name)]


def _put_streams_back(streams: tuple[Any, Any]) -> None:
    sys.stdout, sys.stderr = streams


def _put_handlers_back(handlers: Sequence[Any]) -> None:
    for number, handler in zip(_SIGNALS, handlers, strict=True):
        if handler is not None:  # that of faulthandler, which no Python code can put back
            signal.signal(number, handler)


_SETTINGS: Mapping[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's default device": (torch.get_default_device, lambda _: torch.set_default_device(None)),
    "torch's gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's threads": (torch.get_num_threads, torch.set_num_threads),
    "the working directory": (os.getcwd, os.chdir),
    "the standard streams": (lambda: (sys.stdout, sys.stderr), _put_streams_back),
    "what signals do": (lambda: [signal.getsignal(number) for number in _SIGNALS], _put_handlers_back),
}
