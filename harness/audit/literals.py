"""Numbers written into the code of `forward`, read from the graphs, where they are arguments of operators.

Numbers of an operator that are structure, such as sizes and indices, are not counted where images or weights pass, and
neither are a few settings of layers. An operator on constants only builds a table, so all of its numbers count. Where a
tensor is the same for all images (`fixed`), whole numbers choose values, and count if there are many.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node
from torch.utils._pytree import tree_leaves

from harness.audit.compact import compressed
from harness.audit.fixed import Examined, places
from harness.audit.graph import arguments, cause, operators, short_name

FREE_LITERALS: Mapping[str, frozenset[str]] = {
    "batch_norm": frozenset({"momentum", "eps"}),
    "group_norm": frozenset({"eps"}),
    "layer_norm": frozenset({"eps"}),
    "rms_norm": frozenset({"eps"}),
    "instance_norm": frozenset({"momentum", "eps"}),
    "dropout": frozenset({"p"}),
    "feature_dropout": frozenset({"p"}),
    "alpha_dropout": frozenset({"p"}),
    "feature_alpha_dropout": frozenset({"p"}),
    "cdist": frozenset({"p"}),
    "linalg_vector_norm": frozenset({"ord"}),
}
"""Operator arguments that are settings of a layer and hold no knowledge of digits."""

FREE_SETTINGS = 10
"""Most different values of these arguments in a network that are not counted; if there are more, each is counted."""

FREE_PLACES = 10
"""Most different whole numbers that choose among values that are the same for all images (`fixed`) and are not counted;
if there are more, each is counted as often as it stands."""

FREE_CHOICES = 128
"""Most bytes of those whole numbers in their order, compressed; if there are more, each counts likewise. p4m has 79."""

Numbers = Counter[tuple[str, float]]
"""How many 32-bit units each number of each line takes."""


def literal_units(train: Examined, evaluation: Examined, path: str) -> Iterator[tuple[str, int]]:
    """Yield ``file:line`` and the 32-bit units of the numbers in that line; of the two modes the larger count."""
    written, chosen, orders = zip(*(_written(graph, path) for graph in (train, evaluation)), strict=True)
    found, places_chosen = written[0] | written[1], chosen[0] | chosen[1]
    if len({number for _, number in places_chosen}) > FREE_PLACES or max(map(compressed, orders)) > FREE_CHOICES:
        found += places_chosen
    lines = Counter[str]()
    for (line, _number), units in found.items():
        lines[line] += units
    yield from sorted(lines.items())


def written_units(number: float) -> int:
    """Return the 32-bit units of a number in the code: two if it has more than nine significant digits."""
    return 1 if float(f"{number:.9g}") == number else 2


def _written(graph: Examined, path: str) -> tuple[Numbers, Numbers, bytes]:
    """Return the numbers of a graph that count, those that choose values, and the order of these."""
    found, chosen, order = Numbers(), Numbers(), ""
    settings: dict[float, str] = {}
    from_data = _from_data(graph.program)
    for node in operators(graph.program):
        line = cause(node, path)
        if isinstance(node.target, torch._ops.OpOverload):
            everything = node not in from_data and not _is_size(node)
            free = frozenset() if everything or node in graph.fixed else _free_arguments(node)
            numbers = _numbers(node, everything, arguments(node).keys() - free)
            choices = places(node) if node in graph.same and not everything else []
            order += f"{short_name(node)}{choices}" if choices else ""
            for place in choices:
                chosen[line, place] += written_units(place)
            for number in _numbers(node, everything, free):
                settings.setdefault(number, line)
        else:  # arithmetic on the number of images: rare, so none of its numbers are free
            numbers = (each for each in tree_leaves(node.args) if type(each) in (int, float) and each not in (-1, 0, 1))
        for number in numbers:
            found[line, number] += written_units(number)
    if len(settings) > FREE_SETTINGS:
        found.update({(line, number): written_units(number) for number, line in settings.items()})
    return found, chosen, order.encode()


def _from_data(program: ExportedProgram) -> set[Node]:
    """Return the nodes that depend on images, weights or constant tensors, leaving out sizes."""
    found: set[Node] = set()
    for node in program.graph.nodes:
        if node.op == "placeholder" or (not _is_size(node) and not found.isdisjoint(node.all_input_nodes)):
            found.add(node)
    return found


def _is_size(node: Node) -> bool:
    return not isinstance(node.meta.get("val"), (Tensor, list, tuple))


def _free_arguments(node: Node) -> frozenset[str]:
    name, source = short_name(node), node.args[0] if node.args else None
    if name in ("clamp_min", "clamp_min_") and isinstance(source, Node) and short_name(source) == "linalg_vector_norm":
        return frozenset({"min"})  # eps of F.normalize and of spectral norm
    return FREE_LITERALS.get(name, frozenset())


def _numbers(node: Node, everything: bool, names: Collection[str]) -> Iterator[float]:
    """Yield the numbers in some arguments of an operator: those that are not structure, or all."""
    types = {argument.name: str(argument.type) for argument in node.target._schema.arguments}  # type: ignore[union-attr]
    for name, value in arguments(node).items():
        for number in value if isinstance(value, (list, tuple)) else (value,):
            if name not in names or isinstance(number, (bool, Node)) or not isinstance(number, (int, float, complex)):
                continue
            structural = isinstance(number, int) and ("int" in types[name].lower())
            parts = (number.real, number.imag) if isinstance(number, complex) else (number,)
            for part in parts:
                if (everything or not structural) and part not in (-1, 0, 1) and math.isfinite(part):
                    yield part
