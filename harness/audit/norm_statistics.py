"""Running statistics of batch norm that serve no other purpose: read by batch norms, and moved by them alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import Node

from harness.audit.fixed import spreads, unmoved
from harness.audit.graph import PARTS, arguments, buffer_users, short_name

_AVERAGES = PARTS | {"mean", "repeat"}
"""Operators between a buffer of statistics and its batch norm at evaluation (ghost batch norm)."""


STILL = 0.1
"""Spread of a channel at evaluation, as a part of the mean one in training, up to which it stays about the same."""

LIVE = 0.4
"""Least share of channels that do not: of pixels, a frame of four may be black in all digits, which leaves half."""


def batch_norm_statistics(network: nn.Module, train: ExportedProgram, evaluation: ExportedProgram) -> set[str]:
    """Return the names of genuine running statistics: used by batch norms only, and initialised with 0 and 1.

    Those of a batch norm that normalises nothing, as its input is the same for all images, are a table that is read.
    """
    in_training, in_scoring = buffer_users(train), buffer_users(evaluation, _AVERAGES)
    if not in_training:
        return set()
    still = unmoved(train, network)
    trained, scored = (spreads(program, network, still) for program in (train, evaluation))
    genuine = set()
    for name, buffer in network.named_buffers():
        if buffer.untyped_storage().nbytes() != buffer.nbytes:
            continue  # a view: its storage holds more numbers
        training, scoring = in_training.get(name, []), in_scoring.get(name, [])
        for role, start in (("running_mean", 0), ("running_var", 1)):
            moved = training and all(_moves(user, node, role) for user, node in training)
            serves = all(_serves(user, node, role) for user, node in scoring)
            if not moved or not serves or bool((buffer != start).any()):
                continue
            usual = max(float(trained[norm].mean()) for norm in _norms(training))
            if all(float((scored[user] > STILL * usual).float().mean()) > LIVE for user, _ in scoring):
                genuine.add(name)
        # The batch counter: it starts at 0, is incremented by one if at all, and only a mean over all batches reads it.
        counter = not scoring and all(_only_counts(user) for user, _ in training)
        if counter and buffer.ndim == 0 and buffer == 0:
            genuine.add(name)
    return genuine


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


def _norms(users: Sequence[tuple[Node, Node]]) -> Iterator[Node]:
    """Yield the batch norms among users of a statistic, and those whose statistics a mean over all batches takes."""
    for user, _ in users:
        near = [user] if short_name(user) == "batch_norm" else [n for each in user.all_input_nodes for n in each.users]
        yield from (node for node in near if short_name(node) == "batch_norm")


def _only_counts(user: Node) -> bool:
    """Whether `user` adds one to a counter, and all uses of the sum do the same, or divide one by it for a mean."""
    raised = user.target is torch.ops.aten.add_.Tensor and user.args[1:] == (1,)
    return raised and all(_only_counts(later) or _is_share(later) for later in user.users)


def _is_share(node: Node) -> bool:
    return short_name(node) == "reciprocal" and all(short_name(user) == "lerp_" for user in node.users)
