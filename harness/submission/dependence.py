"""Which steps of a start the values of a tensor depend on: through the results that steps read, and through memory.

A recording (`record`) and a replay (`replay`) both note what each step touches. A step depends on another if it reads
one of its results, or memory that the other has changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from harness.submission.start_operators import base_name


@dataclass(frozen=True)
class Touched:
    """What a step touches: numbers of the results it reads and returns, and the memory that it reads and changes."""

    reads: tuple[int, ...]
    returns: tuple[int, ...]
    memory_read: frozenset[int]
    memory_changed: frozenset[int]

    @classmethod
    def of(
        cls, reads: Iterable[int], returns: Iterable[int], sources: Iterable[Tensor], changed: Iterable[Tensor]
    ) -> Touched:
        """Return what a step touches that reads the memory of `sources`, and changes that of `changed`."""
        return cls(tuple(reads), tuple(returns), *(frozenset(map(memory_of, each)) for each in (sources, changed)))


def needed(
    steps: Sequence[Touched], numbers: Iterable[int], memory: Iterable[int], always: Iterable[int] = ()
) -> list[int]:
    """Return the steps on which results, or the contents of memory at the end, depend, in order.

    Args:
        steps: all steps.
        numbers: results that are needed.
        memory: memory that is needed.
        always: steps that are needed in any case.
    """
    wanted, live, kept = set(numbers), set(memory), set(always)
    for index in range(len(steps) - 1, -1, -1):
        step = steps[index]
        if index in kept or live & step.memory_changed or not wanted.isdisjoint(step.returns):
            kept.add(index)
            wanted.update(step.reads)
            live |= step.memory_read
    return sorted(kept)


def changed_memory(operator: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Return the tensors that an operator writes."""
    schema = operator._schema.arguments
    given = dict(zip((argument.name for argument in schema), args, strict=False)) | dict(kwargs)
    written = {a.name for a in schema if a.alias_info is not None and a.alias_info.is_write}
    if base_name(operator) == "native_batch_norm" and given.get("training"):
        written |= {"running_mean", "running_var"}  # its schema does not say so
    return tensors_in([given.get(name) for name in written])


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors in nested lists and dicts, in order."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def memory_of(tensor: Tensor) -> int:
    """Return a number for the memory of a tensor, which is its own as long as the memory lives."""
    return int(tensor.untyped_storage()._cdata)


def references(plain: Any) -> Iterator[int]:
    """Yield the numbers of the results to which plain arguments refer, in order."""
    if isinstance(plain, list):
        for each in plain:
            yield from references(each)
    elif isinstance(plain, dict):
        if "ref" in plain and len(plain) == 1 and type(plain["ref"]) is int:
            yield plain["ref"]
        else:
            yield from references(list(plain.values()))
