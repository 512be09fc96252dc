"""How much is written in the arrangement of a graph: in the order of its operators, in what they read, in their sizes.

A graph of thousands of operators can hold a network in itself: the position that each of them reads, the axis that it
sums over, which of two values it takes. So the operators are written as bytes in which whatever recurs looks alike, and
compressed. What remains is what the author chose.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch.fx import Node
from torch.utils._pytree import tree_flatten

from harness.audit.compact import as_bytes, compressed, rank
from harness.audit.fixed import Examined
from harness.audit.graph import operators

FREE_BYTES = 448
"""Most compressed bytes of a graph's operators that are not counted; p4m has 369, the most of this project's."""

FREE_FIXED_BYTES = 256
"""The same, of the operators on values that the images do not decide, as on weights; p4m has 224."""


def arrangement_units(graph: Examined) -> int:
    """Return the bytes beyond those that are free: each counts as a number."""
    order = {node: place for place, node in enumerate(operators(graph.program))}
    whole, fixed = (compressed(_text(nodes, order)) for nodes in (order, filter(graph.same.__contains__, order)))
    return max(0, whole - FREE_BYTES, fixed - FREE_FIXED_BYTES)


def _text(nodes: Iterable[Node], order: Mapping[Node, int]) -> bytes:
    """Write operators with the form of their arguments, what they read as how long ago it was made, and numbers."""
    written = bytearray()
    names: list[str] = []
    words: list[str] = []
    tensors: list[Node] = []
    for node in nodes:
        values, form = tree_flatten((node.args, node.kwargs))
        written += as_bytes(rank(f"{node.target} {form}", names))
        for value in values:
            if isinstance(value, Node):
                made = value in order
                written += as_bytes(order[node] - order[value]) if made else b"\xfb" + as_bytes(rank(value, tensors))
            elif type(value) is int:
                written += as_bytes(value)
            else:
                is_new_text = isinstance(value, str) and repr(value) not in words  # such as a formula of einsum
                written += as_bytes(rank(repr(value), words)) + (value.encode() if is_new_text else b"")
    return bytes(written)
