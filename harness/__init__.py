"""Train submitted MNIST networks under one fixed budget and say, with evidence, which is better.

From Python: `run` trains and returns finished runs, `board` ranks them, `check` counts a network. They are loaded when
they are first used (`harness.api`).
"""

from typing import TYPE_CHECKING

from harness import errors as errors

if TYPE_CHECKING:
    from harness.api import Check, Run, board, check, run

__version__ = "0.3.0"

__all__ = ["Check", "Run", "board", "check", "run"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from harness import api

        return getattr(api, name)
    raise AttributeError(f"module 'harness' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
