"""Its build raises an exception that makes a file wherever it is unpickled, or formatted."""

from typing import Any

from torch import nn


class Bomb(Exception):
    def __reduce__(self) -> Any:
        return open, ("harness-trick-exception", "w")

    def __str__(self) -> str:
        return "\x1b[2Jbuild failed" + "!" * 10_000_000


def build(*, width: int = 8) -> nn.Module:
    raise Bomb
