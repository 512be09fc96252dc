"""Check that a file builds the same network each time, and that its initial weights were not trained before."""

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
"""Most initial values that may follow a fixed pattern, such as filters, positions or a cosine basis. More than
that are taken for weights trained before the first epoch."""


def refuse_other_audit(found: Audit, other: Audit, path: str) -> None:
    """Refuse a network with constant tensors if its audit, `other`, differs from `found`, the first of the same file.

    Raises:
        AuditError: their ledgers or the operators they call differ.
    """
    forms = [
        (each.calls, [replace(entry, name=entry.name.partition("#")[0]) for entry in each.ledger.entries])  # no digests
        for each in (found, other)
    ]
    if forms[0] != forms[1]:
        raise another_network(path)


def refuse_another(found: Audit, network: nn.Module, path: str) -> None:
    """Refuse a newly built network if it differs from the one that was audited.

    Its computation may differ even if its ledger does not: a file can choose an activation, a stride or a dropout rate
    at random.

    Args:
        found: the audit of the same file and knobs; it serves every seed.
        network: the network, built again.
        path: file name for messages.

    Raises:
        AuditError: it stores or hides other numbers, computes differently, or has a weight that is not finite.
    """
    refuse_odd_module(network, path)
    if count(network, found.train, found.evaluation, path) != found.ledger or calls_digest(network) != found.calls:
        raise another_network(path)
    for name, parameter in network.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise AuditError(
                "not-finite",
                f"The network is built with a parameter {name} that is not finite.",
                where=path,
                allowed="Initial weights are finite for every seed.",
                hint="Look for a division by zero or an overflow where build initialises them.",
            )
    numbers = dict((*network.named_parameters(remove_duplicate=False), *network.named_buffers(remove_duplicate=False)))
    train, evaluation = (filled(program.module(), numbers) for program in (found.train, found.evaluation))
    if distance(network, train, evaluation, made_up_images(7), path) > TOLERANCE:
        raise another_network(path)


def refuse_trained_start(network: nn.Module, found: Audit, build: Callable[[], nn.Module], path: str) -> None:
    """Refuse a network whose initial values hardly depend on the seed: they may have been trained in advance.

    The network is built a second time, from a random seed, and the two are compared. Constant values (zeros, ones,
    an identity except for its diagonal) are not a pattern. Weights that are shuffled in each build, or stored for the
    seeds of a run, are not detected.

    Args:
        network: the network to be trained, before its first step.
        found: its audit.
        build: builds it again from torch's global random generator.
        path: file name for messages.

    Raises:
        AuditError: more than `FREE_START` initial values follow a pattern, or the second network is another one.
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
    constants = found.evaluation.constants.items()  # non-persistent buffers are also among them
    tables = [tensor for name, tensor in constants if isinstance(tensor, Tensor) and name not in first]
    fixed = sum(_alike(tensor, tensor) for tensor in tables)
    fixed += sum(_alike(first[name], second[name]) for name in first)
    if fixed > FREE_START:
        raise AuditError(
            "trained-start",
            f"{fixed:,} initial values are (nearly) the same for every seed.",
            where=path,
            allowed=f"Initial weights are random or constant; up to {FREE_START:,} may follow a pattern.",
            hint="Draw them with torch.nn.init or torch.randn, without manual_seed; only the harness trains.",
        )


def another_network(path: str) -> AuditError:
    """Return the error for a file that builds different networks from the same knobs."""
    return AuditError(
        "another-network",
        "Built again with the same knobs, the network has other parameters or computes differently.",
        where=path,
        allowed="The same knobs build the same layers; only initial values are random.",
        hint="Remove random choices and counters from build, except for initial weights.",
    )


def _alike(first: Tensor, second: Tensor) -> int:
    """Return how many values of a tensor follow the same pattern in both builds: all or none.

    The most frequent value is ignored as background. The criterion is Spearman's rank correlation (Spearman 1904),
    which a few large values do not dominate.
    """
    first, second = (torch.view_as_real(t) if t.is_complex() else t.double() for t in (first, second))
    if first.numel() == 0:
        return 0
    foreground = first != first.flatten().mode().values
    if foreground.sum() < 2:
        return 0
    ranks = [values[foreground].argsort().argsort().double() for values in (first, second)]
    return int(foreground.sum()) if torch.corrcoef(torch.stack(ranks))[0, 1].abs() > 0.3 else 0
