"""The ledger: every number a network stores, counted on its two exported graphs.

Counted, in 32-bit units: parameters (also frozen ones), buffers, tensors a graph holds as constants
(attributes, globals, arrays, literal tables) and numbers written into the code of `forward`. Listed
but not counted: batch-norm running statistics, if they serve no other purpose and are at most
`FREE_STATISTICS`; tables of indices and masks of at most `FREE_BITS`.
"""

from __future__ import annotations

import hashlib
import lzma
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from operator import getitem

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from harness.audit.fixed import fixed_nodes, places, still_norms
from harness.audit.graph import arguments, cause, short_name
from harness.errors import AuditError

FREE_STATISTICS = 4_000
"""Most batch-norm running statistics that are not counted: a fifth of the budget, 2,000 channels. If there
are more, all of them count, because a network could store tables of the training images in them."""

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

FREE_BITS = 1_024
"""Most bits of tables of whole numbers, of true and false, and of zeros and infinities that are not counted: a
causal mask over 32 tokens, or 128 places up to 256. If there are more, all of these tables count."""

_PARTS = frozenset({"view", "reshape", "flatten", "unflatten", "select", "slice", "unbind", "split", "chunk", "detach"})
_AVERAGES = _PARTS | {"mean", "repeat"}
"""Operators between a buffer of statistics and its batch norm, in training and at evaluation (ghost batch norm)."""

FREE_SETTINGS = 10
"""Most different values of these arguments in a network that are not counted; if there are more, each is counted."""

FREE_PLACES = 10
"""Most different whole numbers that choose among values that are the same for all images (`fixed`) and are not counted;
if there are more, each is counted as often as it stands."""

FREE_CHOICES = 128
"""Most bytes of those whole numbers in their order, compressed; if there are more, each counts likewise. p4m has 79."""

Numbers = Counter[tuple[str, float]]
"""How many 32-bit units each number of each line takes."""


@dataclass(frozen=True)
class Entry:
    """One line of the ledger.

    Attributes:
        layer: dotted name of the module, or ``file:line`` for constants and literals.
        name: name of the tensor within its layer.
        kind: parameter, frozen parameter, buffer, constant, literal or batch-norm statistic.
        shape: shape of the tensor; empty for literals.
        numbers: stored numbers, in 32-bit units.
        counted: whether they count against the budget.
    """

    layer: str
    name: str
    kind: str
    shape: tuple[int, ...]
    numbers: int
    counted: bool = True


@dataclass(frozen=True)
class Ledger:
    """Every number a network stores."""

    entries: tuple[Entry, ...]

    @property
    def parameters(self) -> int:
        """Number of counted 32-bit units: what the budget limits."""
        return sum(entry.numbers for entry in self.entries if entry.counted)


def count(network: nn.Module, train: ExportedProgram, evaluation: ExportedProgram, path: str) -> Ledger:
    """Count the numbers that a network stores.

    Args:
        network: the network as built.
        train, evaluation: its export in each mode.
        path: file name for messages.

    Raises:
        AuditError: a constant tensor is not a plain tensor.
    """
    registered = dict((*network.named_parameters(), *network.named_buffers()))
    statistics = _batch_norm_statistics(network, train, evaluation)
    stored = sum(_statistic_units(registered[name]) for name in statistics)
    free = statistics if stored <= FREE_STATISTICS else set()
    tables = _free_tables(network, train, evaluation)
    entries: list[Entry] = []
    counted: set[object] = set()
    for name, tensor in registered.items():
        layer, _, short = name.rpartition(".")
        # Free memory is not marked as counted, so a weight in the same memory is still counted. A second tensor in
        # the memory of a first is counted again: each run trains a copy of each.
        is_free = name in free or id(tensor) in tables
        numbers = tensor.numel() if is_free else _units(tensor, counted) or own_units(tensor)
        kind, holder = _kind(name, tensor, statistics), layer or type(network).__name__
        entries.append(Entry(holder, short, kind, tuple(tensor.shape), numbers, not is_free))
    for program in (train, evaluation):
        entries.extend(_constants(program, counted, tables, path))
    return Ledger((*entries, *_literals(network, train, evaluation, path)))


def _kind(name: str, tensor: Tensor, statistics: set[str]) -> str:
    if name in statistics:
        return "batch-norm statistic"
    if isinstance(tensor, nn.Parameter):
        return "parameter" if tensor.requires_grad else "frozen parameter"
    return "buffer"


def _units(tensor: Tensor, counted: set[object]) -> int:
    """Return the 32-bit units in the storage of `tensor`; 0 if an earlier tensor has the same storage.

    The whole storage counts, not the view alone, and an element of less than 32 bits counts as one unit.
    """
    storage = tensor.untyped_storage()
    memory = (storage.data_ptr(), storage.nbytes())  # two arrays at the same address may differ in length
    if memory in counted:
        return 0
    counted.add(memory)
    elements = max(tensor.numel(), math.ceil(storage.nbytes() / tensor.element_size()))
    return elements * _units_each(tensor)


def own_units(tensor: Tensor) -> int:
    """Return the 32-bit units of the elements of a tensor."""
    return tensor.numel() * _units_each(tensor)


def _statistic_units(tensor: Tensor) -> int:
    return own_units(tensor) if tensor.is_floating_point() else tensor.numel()  # a counter is one number


def _units_each(tensor: Tensor) -> int:
    return max(1, math.ceil(tensor.element_size() / 4))


def _free_tables(network: nn.Module, train: ExportedProgram, evaluation: ExportedProgram) -> set[int]:
    """Return the ids of tables of indices and of masks, if all of them together store at most `FREE_BITS`."""
    users = _buffer_users(train, _PARTS)
    moved = {name for name, found in users.items() if any(_may_move(user) for user, _ in found)}
    weights = [*network.parameters(), *(network.get_buffer(name) for name in moved)]
    memory = {tensor.untyped_storage().data_ptr() for tensor in weights}
    tables = [*network.buffers()]
    for program in (train, evaluation):
        for name in program.graph_signature.inputs_to_lifted_tensor_constants.values():
            if isinstance(tensor := program.constants[name], Tensor) and tensor.layout == torch.strided:
                tables.append(tensor)
    found = {id(table): (_digest(table), bits) for table in tables if (bits := _bits(table, memory))}
    stored = sum(bits for _, bits in set(found.values()))  # a table in both graphs is one table
    return set(found) if stored <= FREE_BITS else set()


def _may_move(user: Node) -> bool:
    schema = getattr(user.target, "_schema", None)
    return short_name(user) == "batch_norm" or (schema is not None and schema.is_mutable)


def _bits(tensor: Tensor, moving: set[int]) -> int:
    """Return the bits that a table of indices or a mask stores; 0 for others, for views and for `moving` memory."""
    storage = tensor.untyped_storage()
    if storage.data_ptr() in moving or storage.nbytes() != tensor.numel() * tensor.element_size():
        return 0
    return bits_of_table(tensor)


def bits_of_table(tensor: Tensor) -> int:
    """Return the bits that a table of whole numbers, or a mask of zeros and infinities, stores; 0 for others."""
    if not tensor.numel():
        return 0
    if not tensor.is_floating_point() and not tensor.is_complex():
        low, high = int(tensor.min()), int(tensor.max())
        return tensor.numel() * max(1, max(high, -low - 1).bit_length() + (low < 0))
    is_mask = bool(((tensor == 0) | tensor.isinf()).all())
    return tensor.numel() * (1 if bool((tensor <= 0).all() | (tensor >= 0).all()) else 2) if is_mask else 0


def _batch_norm_statistics(network: nn.Module, train: ExportedProgram, evaluation: ExportedProgram) -> set[str]:
    """Return the names of genuine running statistics: used by batch norms only, and initialised with 0 and 1.

    Those of a batch norm that normalises nothing, as its input is the same for all images, are a table that is read.
    """
    buffers = dict(network.named_buffers())
    users = {"train": _buffer_users(train, _PARTS), "evaluation": _buffer_users(evaluation, _AVERAGES)}
    genuine = set()
    tables = still_norms(evaluation, network)
    for name, buffer in buffers.items():
        if buffer.untyped_storage().nbytes() != buffer.numel() * buffer.element_size():
            continue  # a view: its storage holds more numbers
        training, scoring = users["train"].get(name, []), users["evaluation"].get(name, [])
        for role, start in (("running_mean", 0), ("running_var", 1)):
            moved = training and all(_moves(user, node, role) for user, node in training)
            serves = all(_serves(user, node, role) and user not in tables for user, node in scoring)
            if moved and serves and bool((buffer == start).all()):
                genuine.add(name)
        # The batch counter: it starts at 0, is incremented by one if at all, and only a mean over all batches reads it.
        counter = not scoring and all(_only_counts(user) for user, _ in training)
        if counter and buffer.ndim == 0 and buffer == 0:
            genuine.add(name)
    return genuine


def _only_counts(user: Node) -> bool:
    """Whether `user` adds one to a counter, and all uses of the sum do the same, or divide one by it for a mean."""
    raised = user.target is torch.ops.aten.add_.Tensor and user.args[1:] == (1,)
    return raised and all(_only_counts(later) or _is_share(later) for later in user.users)


def _is_share(node: Node) -> bool:
    return short_name(node) == "reciprocal" and all(short_name(user) == "lerp_" for user in node.users)


def _buffer_users(program: ExportedProgram, through: Collection[str] = ()) -> dict[str, list[tuple[Node, Node]]]:
    """Map each buffer's name to pairs in the graph: a user, and what it uses, the buffer or what `through` makes."""
    names = program.graph_signature.inputs_to_buffers
    found: dict[str, list[tuple[Node, Node]]] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in names:
            found[names[node.name]] = list(_users(node, through))
    return found


def _users(node: Node, through: Collection[str]) -> Iterator[tuple[Node, Node]]:
    for user in node.users:
        if short_name(user) in through or (through and user.target is getitem):
            yield from _users(user, through)
        else:
            yield user, node


def _serves(user: Node, buffer: Node, role: str, training: bool | None = None) -> bool:
    """Whether `user` is a batch norm that takes `buffer` as its argument `role` and as no other."""
    if user.target is not torch.ops.aten.batch_norm.default:
        return False
    given = arguments(user)
    uses = [name for name, value in given.items() if value is buffer]
    return uses == [role] and training in (None, given["training"])


def _moves(user: Node, buffer: Node, role: str) -> bool:
    """Whether `user` is a batch norm in training, or its mean over all batches, that moves its statistic `buffer`."""
    if user.target is torch.ops.aten.lerp_.Tensor and user.args[0] is buffer and not user.users:
        (batch, *others) = (each for each in user.all_input_nodes if each is not buffer and not _is_share(each))
        return not others and any(_serves(norm, batch, role, training=True) for norm in batch.users)
    return _serves(user, buffer, role, training=True)


def _constants(program: ExportedProgram, counted: set[object], free: set[int], path: str) -> Iterator[Entry]:
    """Yield the constant tensors of a graph. A literal table is lifted once per mode; equal bytes are counted once."""
    lifted = program.graph_signature.inputs_to_lifted_tensor_constants
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in lifted:
            name = lifted[node.name]
            tensor = program.constants[name]
            assert isinstance(tensor, Tensor)
            user = next(iter(node.users), node)
            refuse_odd_tensor(f"The tensor used at {cause(user, path)}", tensor, path)
            numbers, digest = _units(tensor, counted), _digest(tensor)
            if numbers and digest not in counted:
                counted.add(digest)
                is_free, shape = id(tensor) in free, tuple(tensor.shape)
                yield Entry(cause(user, path), f"{name}#{digest[:8]}", "constant", shape, numbers, not is_free)


def _digest(tensor: Tensor) -> str:
    """Return the SHA-256 of the whole storage behind `tensor`, not of the view alone."""
    stored = torch.empty(0, dtype=torch.uint8).set_(tensor.detach().untyped_storage().cpu())
    return hashlib.sha256(stored.numpy().tobytes()).hexdigest()


def _literals(network: nn.Module, train: ExportedProgram, evaluation: ExportedProgram, path: str) -> Iterator[Entry]:
    """Yield the numbers written into `forward`, one entry per line; of the two modes the larger count is taken."""
    written, chosen, orders = zip(*(_written(program, network, path) for program in (train, evaluation)), strict=True)
    found = written[0] | written[1]
    places = chosen[0] | chosen[1]
    if len({number for _, number in places}) > FREE_PLACES or max(map(compressed, orders)) > FREE_CHOICES:
        found += places
    lines = Counter[str]()
    for (line, _number), times in found.items():
        lines[line] += times
    for line, numbers in sorted(lines.items()):
        yield Entry(line, "numbers in the code", "literal", (), numbers)


def compressed(text: bytes) -> int:
    """Return the bytes of a text, compressed: a bound on what its author could hide in it."""
    if not text:
        return 0
    return len(lzma.compress(text, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA1, "dict_size": 2**20}]))


def _written(program: ExportedProgram, network: nn.Module, path: str) -> tuple[Numbers, Numbers, bytes]:
    """Count pairs of line and number over a graph; return those that count, those that choose values, and their order.

    An operator on input data or weights may have structural integers, such as sizes; these are not counted. An
    operator on constants only builds a table, so all of its numbers are.
    """
    found, chosen, order = Numbers(), Numbers(), ""
    fixed, same = fixed_nodes(program, network, lambda node: bool(places(node) or _free_literals(node)))
    settings: dict[float, str] = {}
    from_data: set[Node] = set()
    for node in program.graph.nodes:
        if node.op == "placeholder":
            from_data.add(node)
        elif node.op == "call_function":
            is_size = not isinstance(node.meta.get("val"), (Tensor, list, tuple))
            if not is_size and any(source in from_data for source in node.all_input_nodes):
                from_data.add(node)
            if isinstance(node.target, torch._ops.OpOverload):
                everything = node not in from_data and not is_size
                free = frozenset() if everything or node in fixed else _free_literals(node)
                numbers = _numbers(node, everything, arguments(node).keys() - free)
                for place in places(node) if node in same and not everything else ():
                    chosen[cause(node, path), place] += written_units(place)
                for number in _numbers(node, everything, free):
                    settings.setdefault(number, cause(node, path))
            else:  # arithmetic on the number of images: rare, so none of its numbers are free
                numbers = (value for value in node.args if isinstance(value, (int, float)) and value not in (-1, 0, 1))
            for number in numbers:
                found[cause(node, path), number] += written_units(number)
    if len(settings) > FREE_SETTINGS:
        found.update({(line, number): written_units(number) for number, line in settings.items()})
    return found, chosen, order.encode()


def _free_literals(node: Node) -> frozenset[str]:
    name, source = short_name(node), node.args[0] if node.args else None
    if name in ("clamp_min", "clamp_min_") and isinstance(source, Node) and short_name(source) == "linalg_vector_norm":
        return frozenset({"min"})  # eps of F.normalize and of spectral norm
    return FREE_LITERALS.get(name, frozenset())


def written_units(number: float) -> int:
    """Return the 32-bit units of a number in the code: two if it has more than nine significant digits."""
    return 1 if float(f"{number:.9g}") == number else 2


def _numbers(node: Node, everything: bool, names: Collection[str]) -> Iterator[float]:
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


def refuse_odd_tensor(name: str, tensor: Tensor, path: str) -> None:
    """Refuse a tensor that is not plain: the size of others cannot be relied on.

    Raises:
        AuditError: it is of a subclass, sparse or lazy, or has a hook.
    """
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout != torch.strided:
        raise AuditError(
            "tensor",
            f"{name} is a {type(tensor).__name__} ({tensor.layout}), whose numbers the audit cannot count.",
            where=path,
            allowed="Allowed: dense torch.Tensor and torch.nn.Parameter, no subclasses.",
            hint="Give lazy layers their sizes (nn.Linear for nn.LazyLinear); store tables as dense tensors.",
        )
    if tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None):
        raise AuditError(
            "hook",
            f"{name} has a hook: Python code that would run in every training step.",
            where=path,
            allowed="After the audit only the graph is trained; none of the plug-in's Python runs any more.",
            hint="Remove register_hook; weight decay is set in the recipe.",
        )
