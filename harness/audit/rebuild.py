"""Check that a file builds the same network each time, and that its initial weights were not trained before."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from harness.audit.count import count
from harness.audit.module import refuse_odd_module
from harness.audit.network import Audit, distance, filled
from harness.audit.probe import TOLERANCE, TRAINED_TOGETHER, calls_digest, made_up_images
from harness.errors import AuditError


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
    if distance(network, train, evaluation, made_up_images(TRAINED_TOGETHER, seed=0), path) > TOLERANCE:
        raise another_network(path)


def another_network(path: str) -> AuditError:
    """Return the error for a file that builds different networks from the same knobs."""
    return AuditError(
        "another-network",
        "Built again with the same knobs, the network has other parameters or computes differently.",
        where=path,
        allowed="The same knobs build the same layers; only initial values are random.",
        hint="Remove random choices and counters from build, except for initial weights.",
    )
