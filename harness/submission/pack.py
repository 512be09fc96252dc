"""Pack an exported network into the plain data of a submission; runs in the process of the plug-in."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from harness.audit.export import foreign_operator
from harness.audit.graph import cause, layers_of
from harness.errors import AuditError
from harness.submission.operators import name_of
from harness.submission.plain import NotPlain, to_plain
from harness.submission.replay import same_bits


@dataclass
class Packed:
    """The tensors and layers of a network, numbered as its graphs refer to them."""

    entries: list[list[Any]] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    layers: dict[tuple[str, str], int] = field(default_factory=dict)
    _numbers: dict[str, int] = field(default_factory=dict)

    def add(self, names: Iterable[str], kind: str, values: Tensor) -> None:
        """Number a tensor."""
        listed = [*names]
        self._numbers.update(dict.fromkeys(listed, len(self.entries)))
        self.entries.append([listed, kind])
        self.values.append(values)

    def add_registered(self, network: nn.Module) -> None:
        """Number all parameters and buffers; one with several names is one tensor."""
        for found in (network.named_parameters(remove_duplicate=False), network.named_buffers(remove_duplicate=False)):
            tensors: dict[int, Tensor] = {}
            names: dict[int, list[str]] = {}
            for name, tensor in found:
                tensors[id(tensor)] = tensor
                names.setdefault(id(tensor), []).append(name)
            for key, tensor in tensors.items():
                is_parameter = isinstance(tensor, nn.Parameter)
                kind = ("parameter" if tensor.requires_grad else "frozen") if is_parameter else "buffer"
                self.add(names[key], kind, tensor)

    def numbered(self) -> dict[str, Tensor]:
        """Return the tensors by their number, as the start program names them."""
        return {str(number): tensor for number, tensor in enumerate(self.values)}

    def copied(self) -> list[Tensor]:
        """Return copies of the tensors, in their order."""
        return [tensor.detach().clone() for tensor in self.values]

    def in_both(self, network: nn.Module, other: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
        """Return, by number, each tensor that has a name in `network`, and the tensor of that name in `other`.

        The result is empty if `other` lacks one of them, or it has another shape or type there.
        """
        found = {}
        for number, (names, _) in enumerate(self.entries):
            first, second = (_attribute(module, names[0]) for module in (network, other))
            if first is None:
                continue  # made by forward
            if second is None or (first.shape, first.dtype) != (second.shape, second.dtype):
                return {}
            found[str(number)] = (first, second)
        return found

    def graph(self, program: ExportedProgram, mode: str, path: str) -> tuple[list[Any], list[Any]]:
        """Return the nodes of a graph, and line and layers of each operator.

        Raises:
            AuditError: it has an operator or an argument that cannot be handed over.
        """
        signature = program.graph_signature
        named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        lifted = signature.inputs_to_lifted_tensor_constants
        numbers: dict[Node, int] = {}
        nodes: list[Any] = []
        shown: list[Any] = []

        def reference(value: object) -> int | None:
            return numbers[value] if isinstance(value, Node) else None

        for node in program.graph.nodes:
            if node.op == "placeholder":
                if node.name in lifted:
                    name, where = lifted[node.name], cause(next(iter(node.users), node), path)
                    nodes.append(["tensor", self._constant(program.constants[name], mode, name, where)])
                elif node.name in named:
                    nodes.append(["tensor", self._numbers[named[node.name]]])
                else:
                    nodes.append(["images"])
            elif node.op == "call_function":
                nodes.append(self._call(node, reference, path))
                shown.append([_line(node, path), self._layers_of(node)])
            else:
                (result,) = node.args[0]
                nodes.append(["out", to_plain(result, reference)])
            numbers[node] = len(nodes) - 1
        return nodes, shown

    def _call(self, node: Node, reference: Any, path: str) -> list[Any]:
        name = name_of(node.target)
        if name is None:
            raise foreign_operator(node, path)
        try:
            kwargs = {key: to_plain(value, reference) for key, value in node.kwargs.items()}
            return ["call", name, to_plain(node.args, reference), kwargs]
        except NotPlain as error:
            raise AuditError(
                "operator",
                f"forward calls {name} with an argument that cannot be handed over: {error}.",
                where=cause(node, path),
                allowed="Allowed: tensors, numbers, texts, types and lists of them.",
                hint="Leave out random generators; the harness seeds torch's own.",
            ) from error

    def _constant(self, tensor: Tensor, mode: str, name: str, where: str) -> int:
        """Number a constant of a graph; the same tensor in both graphs is one, and so are equal literal tables.

        Raises:
            AuditError: it shares memory with a parameter or buffer; once copied, the two would differ.
        """
        for (names, kind), registered in zip(self.entries, self.values, strict=True):
            memory = registered.untyped_storage().data_ptr(), tensor.untyped_storage().data_ptr()
            if kind != "constant" and tensor.numel() and memory[0] == memory[1]:
                raise AuditError(
                    "shared-memory",
                    f"forward uses a tensor that shares memory with {names[0]}, but is another tensor.",
                    where=where,
                    allowed="Each tensor of a network is handed over by itself; it may be used in several places.",
                    hint="Use the registered tensor itself, or copy it with clone().",
                )
        for number, (entry, known) in enumerate(zip(self.entries, self.values, strict=True)):
            if entry[1] == "constant" and (known is tensor or same_bits(known, tensor)):
                return number
        free = next(each for each in (name, f"{mode}.{name}", f"{mode}.{name}_") if each not in self._numbers)
        self.add([free], "constant", tensor)
        return self._numbers[free]

    def _layers_of(self, node: Node) -> list[int]:
        return [self.layers.setdefault(layer, len(self.layers)) for layer in layers_of(node)]


def _attribute(module: nn.Module, name: str) -> Tensor | None:
    try:
        found = operator.attrgetter(name)(module)
    except AttributeError:
        return None
    return found if isinstance(found, Tensor) else None


def _line(node: Node, path: str) -> int:
    line = cause(node, path).rpartition(":")[2]
    return int(line) if line.isdigit() else 0
