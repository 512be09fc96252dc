"""The ledger: every number a network stores, counted on its two exported graphs.

Counted, in 32-bit units: parameters (also frozen ones), buffers, tensors a graph holds as constants (attributes,
globals, arrays, literal tables) and numbers written into the code of `forward` (`literals`). Listed but not counted:
batch-norm running statistics, if they serve no other purpose (`norm_statistics`) and are at most `FREE_STATISTICS`; and
small tables of indices and masks (`tables`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from torch.export import ExportedProgram

from harness.audit.arrangement import arrangement_units
from harness.audit.fixed import examine
from harness.audit.graph import cause
from harness.audit.literals import literal_units
from harness.audit.module import refuse_odd_tensor
from harness.audit.norm_statistics import batch_norm_statistics
from harness.audit.tables import digest_of_storage, free_tables

FREE_STATISTICS = 4_000
"""Most batch-norm running statistics that are not counted: a fifth of the budget, 2,000 channels. If there
are more, all of them count, because a network could store tables of the training images in them."""

NETWORK = "(network)"
"""Name of the outermost module in ledger and layer table."""


@dataclass(frozen=True)
class Entry:
    """One line of the ledger.

    Attributes:
        layer: dotted name of the module, `NETWORK` for the outermost, or ``file:line`` for constants and literals.
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
    statistics = batch_norm_statistics(network, train, evaluation)
    stored = sum(_statistic_units(registered[name]) for name in statistics)
    free = statistics if stored <= FREE_STATISTICS else set()
    tables = free_tables(network, train, evaluation)
    entries: list[Entry] = []
    counted: set[object] = set()
    for name, tensor in registered.items():
        layer, _, short = name.rpartition(".")
        # Free memory is not marked as counted, so a weight in the same memory is still counted. A second tensor in
        # the memory of a first is counted again: each run trains a copy of each.
        is_free = name in free or id(tensor) in tables
        numbers = tensor.numel() if is_free else _storage_units(tensor, counted) or own_units(tensor)
        kind = "batch-norm statistic" if name in statistics else _kind(tensor)
        entries.append(Entry(layer or NETWORK, short, kind, tuple(tensor.shape), numbers, not is_free))
    for program in (train, evaluation):
        entries.extend(_constants(program, counted, tables, path))
    graphs = examine(train, network), examine(evaluation, network)
    written = [*literal_units(*graphs, path)]
    entries.extend(Entry(line, "numbers in the code", "literal", (), numbers) for line, numbers in written)
    # Numbers in the code stand in the arrangement, too: with up to four bytes for each unit.
    arranged = max(map(arrangement_units, graphs)) - 4 * sum(numbers for _, numbers in written)
    if arranged > 0:
        entries.append(Entry(path, "arrangement of the operators", "literal", (), arranged))
    return Ledger(tuple(entries))


def own_units(tensor: Tensor) -> int:
    """Return the 32-bit units of a tensor's elements; one of less than 32 bits counts as one unit.

    A tensor without elements has sizes, which an operator can read as numbers: each counts.
    """
    return tensor.numel() * _units_each(tensor) or tensor.ndim


def _units_each(tensor: Tensor) -> int:
    return max(1, math.ceil(tensor.element_size() / 4))


def _statistic_units(tensor: Tensor) -> int:
    return own_units(tensor) if tensor.is_floating_point() else tensor.numel()  # a counter is one number


def _storage_units(tensor: Tensor, counted: set[object]) -> int:
    """Return the units in the whole storage of a tensor; 0 if an earlier tensor has the same storage."""
    storage = tensor.untyped_storage()
    memory = (storage.data_ptr(), storage.nbytes())  # two arrays at the same address may differ in length
    if memory in counted:
        return 0
    counted.add(memory)
    elements = max(tensor.numel(), math.ceil(storage.nbytes() / tensor.element_size()))
    return elements * _units_each(tensor)


def _kind(tensor: Tensor) -> str:
    if isinstance(tensor, nn.Parameter):
        return "parameter" if tensor.requires_grad else "frozen parameter"
    return "buffer"


def _constants(program: ExportedProgram, counted: set[object], free: set[int], path: str) -> Iterator[Entry]:
    """Yield the constant tensors of a graph. A literal table is lifted once per mode; equal bytes are counted once."""
    lifted = program.graph_signature.inputs_to_lifted_tensor_constants
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in lifted:
            name = lifted[node.name]
            tensor = program.constants[name]
            assert isinstance(tensor, Tensor)
            line = cause(next(iter(node.users), node), path)
            refuse_odd_tensor(f"The tensor used at {line}", tensor, path)
            numbers, digest = _storage_units(tensor, counted), digest_of_storage(tensor)
            if numbers and digest not in counted:
                counted.add(digest)
                is_free = id(tensor) in free
                yield Entry(line, f"{name}#{digest[:8]}", "constant", tuple(tensor.shape), numbers, not is_free)
