"""A submission as one JSON document: two graphs, their tensors and the start, with what a reader is shown.

The child process of a plug-in writes it; the harness reads it as it would read a file of a stranger. The part that
decides what is trained is hashed: two files that build the same network have the same hash, whatever their names,
comments and attributes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from harness.submission.names import refuse_odd_name
from harness.submission.plain import malformed

VERSION = 1
"""Version of the document; a change of it changes every hash."""

LONGEST = 32 * 1024 * 1024
"""Most characters of a document. One of 20,000 numbers that are all its author's has 0.2 million."""

MOST_TENSORS = 5_000
"""Most tensors of a network: one of 20,000 numbers in scalars would be refused for its operators anyway."""

DEEPEST = 32
"""Most lists and dicts within each other in a document; a network of its own needs 10."""

MODES = ("train", "evaluation")

Kind = Literal["parameter", "frozen", "buffer", "constant"]

KINDS = ("parameter", "frozen", "buffer", "constant")


@dataclass(frozen=True)
class TensorEntry:
    """A tensor of a network.

    Attributes:
        names: its dotted names in the module; several if it is tied.
        kind: parameter, frozen parameter, buffer, or constant: a tensor that is neither and that a graph reads.
    """

    names: tuple[str, ...]
    kind: Kind


@dataclass(frozen=True)
class Call:
    """What a reader is shown of one operator of a graph.

    Attributes:
        line: line of the plug-in that made it, 0 if unknown.
        layers: positions in `Submission.layers` of the modules that it is part of, the outermost first.
    """

    line: int
    layers: tuple[int, ...]


@dataclass(frozen=True)
class Submission:
    """A network as data, as handed over by the process that ran the plug-in. It need not be valid.

    Attributes:
        text: the document.
    """

    text: str

    @classmethod
    def of(cls, content: object) -> Submission:
        """Return the submission with this content.

        Raises:
            AuditError: it is too long, or cannot be written as JSON.
        """
        try:
            text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        except (ValueError, TypeError, RecursionError) as error:
            raise malformed("the document") from error
        if len(text) > LONGEST:
            raise malformed(f"the document has {len(text):,} characters")
        return cls(text)

    @cached_property
    def _content(self) -> dict[str, Any]:
        try:
            content = json.loads(self.text)
        except (ValueError, RecursionError) as error:
            raise malformed("the document") from error
        if not _is_flat(content, DEEPEST):
            raise malformed("the depth of the document")
        if not isinstance(content, dict) or content.get("version") != VERSION:
            raise malformed("the version of the document")
        return content

    @cached_property
    def hash(self) -> str:
        """SHA-256 of what is trained: graphs, kinds of tensors, and start; not of names and lines."""
        kinds = [[entry.kind, len(entry.names)] for entry in self.tensors]
        hashed = [VERSION, [self.nodes(mode) for mode in MODES], kinds, self.start]
        return hashlib.sha256(json.dumps(hashed, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def nodes(self, mode: str) -> list[list[Any]]:
        """Return the nodes of a graph, as written; `harness.submission.network` reads them."""
        graphs = self._content.get("graphs")
        found = graphs.get(mode) if isinstance(graphs, dict) else None
        if not isinstance(found, list) or not all(isinstance(node, list) and node for node in found):
            raise malformed(f"the {mode} graph")
        return found

    @property
    def start(self) -> dict[str, Any]:
        """The start program, as written; `harness.submission.start` reads it."""
        found = self._content.get("start")
        if not isinstance(found, dict):
            raise malformed("the start")
        return found

    @cached_property
    def tensors(self) -> tuple[TensorEntry, ...]:
        """The tensors, in the order in which graphs and start number them."""
        found = self._content.get("tensors")
        if not isinstance(found, list) or len(found) > MOST_TENSORS:
            raise malformed("the list of tensors")
        entries = tuple(_tensor_entry(entry) for entry in found)
        names = [name for entry in entries for name in entry.names]
        holders = {name[:end] for name in names for end, letter in enumerate(name) if letter == "."}
        if len({*names}) < len(names) or holders & {*names}:
            raise malformed("a name of a tensor stands twice")
        return entries

    @cached_property
    def layers(self) -> tuple[tuple[str, str], ...]:
        """Dotted name and class of the modules that the graphs mention, for the layer table."""
        found = self._content.get("layers")
        if not isinstance(found, list):
            raise malformed("the list of layers")
        return tuple((_shown(name), _shown(kind)) for name, kind in map(_pair, found))

    @property
    def doubt(self) -> Mapping[str, Any]:
        """The refusal of a network whose module and graphs differ, as data; empty if they do not.

        It comes with the network, because the audit often finds a reason that helps its author more.
        """
        found = self._content.get("doubt")
        if not isinstance(found, dict):
            raise malformed("the doubt")
        return found

    def calls(self, mode: str) -> tuple[Call, ...]:
        """Return what a reader is shown of each operator of a graph."""
        shown = self._content.get("shown")
        found = shown.get(mode) if isinstance(shown, dict) else None
        if not isinstance(found, list):
            raise malformed("the lines of the graph")
        return tuple(self._call(line, layers) for line, layers in map(_pair, found))

    def _call(self, line: Any, layers: Any) -> Call:
        legal = type(line) is int and 0 <= line < 10**7 and isinstance(layers, list) and len(layers) < 100
        if not legal or not all(type(place) is int and 0 <= place < len(self.layers) for place in layers):
            raise malformed("the lines of the graph")
        return Call(line, tuple(layers))


def _tensor_entry(entry: Any) -> TensorEntry:
    names, kind = _pair(entry)
    if not isinstance(names, list) or not names or len(names) > 1_000 or kind not in KINDS:
        raise malformed("a tensor")
    for name in names:
        if not isinstance(name, str):
            raise malformed("the name of a tensor")
        refuse_odd_name(name)
    return TensorEntry(tuple(names), kind)


def _is_flat(content: Any, depth: int) -> bool:
    """Whether no more than `depth` lists and dicts are within each other."""
    if not isinstance(content, (list, dict)):
        return True
    inner = content.values() if isinstance(content, dict) else content
    return depth > 0 and all(_is_flat(each, depth - 1) for each in inner)


def _pair(found: Any) -> Sequence[Any]:
    if not isinstance(found, list) or len(found) != 2:
        raise malformed("a pair")
    return found


def _shown(text: Any) -> str:
    if not isinstance(text, str):
        raise malformed("a name of a layer")
    return re.sub(r"[^\w.@-]", "?", text[:200])
