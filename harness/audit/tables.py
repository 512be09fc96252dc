"""Tables that are free if they are small: of whole numbers, of true and false, and of zeros and infinities.

Indices and masks hold no weights, but many bits could: so all tables of a network are free together, or none.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from harness.audit.graph import buffer_users, short_name

FREE_BITS = 1_024
"""Most bits of tables of whole numbers, of true and false, and of zeros and infinities that are not counted: a
causal mask over 32 tokens, or 128 places up to 256. If there are more, all of these tables count."""


def free_tables(network: nn.Module, train: ExportedProgram, evaluation: ExportedProgram) -> set[int]:
    """Return the ids of tables of indices and of masks, if all of them together store at most `FREE_BITS`."""
    moved = {name for name, users in buffer_users(train).items() if any(_may_move(user) for user, _ in users)}
    weights = [*network.parameters(), *(network.get_buffer(name) for name in moved)]
    moving = {tensor.untyped_storage().data_ptr() for tensor in weights}
    tables = [*network.buffers()]
    for program in (train, evaluation):
        for name in program.graph_signature.inputs_to_lifted_tensor_constants.values():
            if isinstance(tensor := program.constants[name], Tensor) and tensor.layout == torch.strided:
                tables.append(tensor)
    found = {id(table): (digest_of_storage(table), bits) for table in tables if (bits := _bits(table, moving))}
    stored = sum(bits for _, bits in set(found.values()))  # a table in both graphs is one table
    return set(found) if stored <= FREE_BITS else set()


def _may_move(user: Node) -> bool:
    schema = getattr(user.target, "_schema", None)
    return short_name(user) in ("batch_norm", "instance_norm") or (schema is not None and schema.is_mutable)


def _bits(tensor: Tensor, moving: set[int]) -> int:
    """Return the bits that a table of indices or a mask stores; 0 for others, for views and for `moving` memory."""
    storage = tensor.untyped_storage()
    return 0 if storage.data_ptr() in moving or storage.nbytes() != tensor.nbytes else bits_of_table(tensor)


def bits_of_table(tensor: Tensor) -> int:
    """Return the bits that a table of whole numbers, or a mask of zeros and infinities, stores; 0 for others."""
    if not tensor.numel():
        return 0
    if not tensor.is_floating_point() and not tensor.is_complex():
        low, high = int(tensor.min()), int(tensor.max())
        return tensor.numel() * max(1, max(high, -low - 1).bit_length() + (low < 0))
    if not bool(((tensor == 0) | tensor.isinf()).all()):
        return 0
    return tensor.numel() * (1 if bool((tensor <= 0).all() | (tensor >= 0).all()) else 2)


def digest_of_storage(tensor: Tensor) -> str:
    """Return the SHA-256 of the whole storage behind `tensor`, not of the view alone."""
    stored = torch.empty(0, dtype=torch.uint8).set_(tensor.detach().untyped_storage().cpu())
    return hashlib.sha256(stored.numpy().tobytes()).hexdigest()
