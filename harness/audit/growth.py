"""The state of a network in training: the tensors that were counted, and nothing that has grown beside them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from harness.errors import AuditError

Sizes = Mapping[str, tuple[tuple[int, ...], int]]
"""Shape, and bytes of the storage, of tensors by name."""


def sizes_of(tensors: Mapping[str, Tensor]) -> Sizes:
    """Return the sizes of a network's tensors."""
    return {name: (tuple(tensor.shape), tensor.untyped_storage().nbytes()) for name, tensor in tensors.items()}


def refuse_grown_state(tensors: Mapping[str, Tensor], counted: Sizes, path: str) -> None:
    """Refuse a network that stores more, or other tensors, than were counted.

    Args:
        tensors: its tensors by name, as they are now.
        counted: their sizes when it was audited.
        path: file name for messages.

    Raises:
        AuditError: a tensor came, went, or has another shape or storage.
    """
    now = sizes_of(tensors)
    changed = sorted(name for name in now.keys() | counted.keys() if now.get(name) != counted.get(name))
    if changed:
        raise AuditError(
            "grown-state",
            f"Training changes what the network stores: {changed[0]} was {_text(counted, changed[0])} when it was "
            f"counted and is {_text(now, changed[0])}.",
            where=path,
            allowed="A network has the same tensors, of the same sizes, from its audit to its score.",
            hint="Remove operators that resize or replace a tensor of the network.",
        )


def _text(sizes: Sizes, name: str) -> str:
    if name not in sizes:
        return "not there"
    shape, stored = sizes[name]
    return f"{list(shape)} in {stored:,} bytes"
