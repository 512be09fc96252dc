"""Names of tensors and layers: torch writes them into the text of a graph, which Python executes."""

from __future__ import annotations

import keyword
import re
import unicodedata

from torch import nn
from torch.fx import Graph, GraphModule

from harness.errors import AuditError, printable

DEEPEST = 50
"""Most layers within each other."""

_PART = re.compile(r"[\w-]{1,100}")

_TAKEN = frozenset(("_harness_graphs", "_harness_places", *dir(GraphModule(nn.Module(), Graph()))))
_TAKEN_WITHIN = frozenset(dir(nn.Module()))
"""Attributes of the outermost module, which becomes an exported graph, and of those within it."""


def refuse_odd_name(name: str, path: str = "") -> None:
    """Refuse a dotted name that is not only a name, or that torch's modules use themselves.

    Raises:
        AuditError: it is such a name.
    """
    parts = name.split(".")
    is_name = len(parts) <= DEEPEST and all(map(_PART.fullmatch, parts)) and not any(map(keyword.iskeyword, parts))
    is_taken = parts[0] in _TAKEN or any(part in _TAKEN_WITHIN for part in parts)
    # Python reads one letter for another in program text: two names could become one.
    if is_taken or not is_name or unicodedata.normalize("NFKC", name) != name:
        raise AuditError(
            "name",
            f"A layer or tensor of the network is named {printable(name[:100])!r}"
            + (", as something that torch's own modules have." if is_taken else "."),
            where=path,
            allowed="Allowed: letters, digits, _ and -, at most 100 in each part; no keyword, no name of torch's.",
            hint="Rename it where the layer or the tensor is registered.",
        )
