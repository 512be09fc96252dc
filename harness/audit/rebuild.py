"""The same file and knobs build the same network, whose weights are drawn at random and were not trained before."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from harness.audit.count import count
from harness.audit.module import refuse_odd_module
from harness.audit.network import Audit, distance, filled
from harness.audit.probe import TOLERANCE, calls_digest, made_up_images
from harness.errors import AuditError

FREE_START = 1_000
"""Most numbers that may start as a pattern of the author's own: filters, positions, a cosine basis. More
are weights that were trained before the first epoch."""


def refuse_other_audit(found: Audit, other: Audit, path: str) -> None:
    """Refuse a network with a table of constants, audited as `other`, if it is another one than the one of `found`.

    Raises:
        AuditError: it stores other numbers, or calls other operators.
    """
    forms = [
        (each.calls, [replace(entry, name=entry.name.partition("#")[0]) for entry in each.ledger.entries])  # no digests
        for each in (found, other)
    ]
    if forms[0] != forms[1]:
        raise another_network(path)


def refuse_another(found: Audit, network: nn.Module, path: str) -> None:
    """Refuse a `network`, built anew from the file and knobs of an audit that serves every seed, if it is another one.

    Its graphs may differ where its ledger does not: a file can draw an activation, a stride or a dropout rate by lot.

    Raises:
        AuditError: it stores other numbers, hides some, computes otherwise, or has a weight that is not finite.
    """
    refuse_odd_module(network, path)
    if count(network, found.train, found.evaluation, path) != found.ledger or calls_digest(network) != found.calls:
        raise another_network(path)
    for name, parameter in network.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise AuditError(
                "not-finite",
                f"The network is built with a {name} that is not finite.",
                where=path,
                allowed="The weights of every seed are finite.",
                hint="Look for a division by zero, or a power, where build draws them.",
            )
    numbers = dict((*network.named_parameters(remove_duplicate=False), *network.named_buffers(remove_duplicate=False)))
    train, evaluation = (filled(program.module(), numbers) for program in (found.train, found.evaluation))
    if distance(network, train, evaluation, made_up_images(7), path) > TOLERANCE:
        raise another_network(path)


def refuse_trained_start(network: nn.Module, found: Audit, build: Callable[[], nn.Module], path: str) -> None:
    """Refuse a network whose numbers hardly depend on the seed, by building it once more from a seed drawn by lot.

    Epochs trained at home would not show otherwise. What is constant (zeros, ones, an identity but for
    its diagonal) is no pattern. Weights shuffled from build to build, or kept for the seeds that a run
    begins with, are not recognised.

    Args:
        network: the network that is to be trained, before its first step.
        found: its audit.
        build: makes it again, from torch's global random numbers.
        path: file name for messages.

    Raises:
        AuditError: more than `FREE_START` numbers start as a pattern, or the second network is another one.
    """
    with torch.random.fork_rng():
        torch.manual_seed(secrets.randbits(63))  # a seed that no plug-in can know
        again = build()
        calls = calls_digest(again)
    first, second = (
        {name: tensor.detach() for name, tensor in (*made.named_parameters(), *made.named_buffers())}
        for made in (network, again)
    )
    shapes = [{name: tensor.shape for name, tensor in made.items()} for made in (first, second)]
    if shapes[0] != shapes[1] or calls != found.calls:
        raise another_network(path)
    constants = found.evaluation.constants.items()  # among them are buffers that are not saved with the network
    tables = [tensor for name, tensor in constants if isinstance(tensor, Tensor) and name not in first]
    fixed = sum(_alike(tensor, tensor) for tensor in tables)
    fixed += sum(_alike(first[name], second[name]) for name in first)
    if fixed > FREE_START:
        raise AuditError(
            "trained-start",
            f"{fixed:,} numbers start (nearly) the same whatever the seed.",
            where=path,
            allowed=f"Weights start by lot or constant; up to {FREE_START:,} may start as a pattern of your own.",
            hint="Draw them with torch.nn.init or torch.randn, without manual_seed; all training happens here.",
        )


def another_network(path: str) -> AuditError:
    """Return the error for a file that builds another network from the same knobs."""
    return AuditError(
        "another-network",
        "Built again with the same knobs, the network has other parameters, or computes otherwise.",
        where=path,
        allowed="The same knobs build the same layers; only their first numbers are drawn by lot.",
        hint="Take lots and counters out of build, but for weights.",
    )


def _alike(first: Tensor, second: Tensor) -> int:
    """Count the numbers in a tensor that follow a pattern both times; the most frequent number is background.

    By Spearman's rank correlation, which loud noise in a few places does not hide.
    """
    first, second = (torch.view_as_real(t) if t.is_complex() else t.double() for t in (first, second))
    if first.numel() == 0:
        return 0
    telling = first != first.flatten().mode().values
    if telling.sum() < 2:
        return 0
    ranks = [values[telling].argsort().argsort().double() for values in (first, second)]
    return int(telling.sum()) if torch.corrcoef(torch.stack(ranks))[0, 1].abs() > 0.3 else 0
