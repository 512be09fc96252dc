"""Run a plug-in's code in the process that is confined for it, and attribute what it raises to its line."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator

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


def _reach_hint(error: BaseException | None, said: str) -> str:
    """Return what to do where a file or the network was wanted; an empty string for other errors."""
    while error and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    if not error and "download" not in said:  # torchvision tells of a failed download by its text alone
        return ""
    return "A plug-in's process reaches no files of yours and no network (docs/isolation.md); build without them."


@contextlib.contextmanager
def running_plugin(path: str, rule: str, message: str, hint: str) -> Iterator[None]:
    """Run a block of a plug-in's code, and raise a `ContractError` with its line for anything that it raises.

    Args:
        path: path of the plug-in.
        rule: id of the rule that an exception breaks.
        message: start of the message, before the exception.
        hint: what the user should do.

    Raises:
        ContractError: the code raised (also ``SystemExit``).
        OutOfMemory: there is not enough memory.
    """
    try:
        yield
    except ContractError:
        raise
    except BaseException as error:
        if ran_out_of_memory(error):
            raise OutOfMemory.of(path, error) from error
        said = _describe(error)
        raise ContractError(
            rule,
            f"{message} {said}",
            where=blame(error, path),
            hint=device_hint(said) or _reach_hint(error, said) or hint,
        ) from error
