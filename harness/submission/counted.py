"""What the harness makes of a submission: the network with a start of its own, and the audit of it."""

from __future__ import annotations

import hashlib

from torch import nn
from torch.export import ExportedProgram

from harness import audit, plugins
from harness.audit import Audit, Exporter, Ledger
from harness.audit.count import count
from harness.errors import AuditError
from harness.seeds import seed_everything
from harness.submission.document import Submission
from harness.submission.network import Submitted, annotate
from harness.submission.plain import malformed, reading
from harness.submission.replay import replay
from harness.submission.trained_start import with_numbers_of_start


@reading()
def network_of(data: Submission) -> Submitted:
    """Return the network of a submission, with a start drawn from torch's global random generator.

    Raises:
        AuditError: the submission is malformed.
    """
    started, names = replay(data.start), [str(number) for number in range(len(data.tensors))]
    if started.keys() != {*names}:
        raise malformed("the start makes other tensors than the network has")
    return Submitted(data, [started[name] for name in names])


def started(data: Submission, seed: int, purpose: str, path: str) -> Submitted:
    """Return the network of a submission, started from a seed.

    Raises:
        AuditError: the submission is malformed, or a parameter is not finite.
    """
    seed_everything(seed, 0, purpose)
    network = network_of(data)
    for name, parameter in network.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise AuditError(
                "not-finite",
                f"The network is built with a parameter {name} that is not finite.",
                where=path,
                allowed="Initial weights are finite for every seed.",
                hint="Look for a division by zero or an overflow where build initialises them.",
            )
    return network


@reading()
def audited(data: Submission, path: str) -> tuple[Submitted, Audit]:
    """Rebuild the network of a submission from a fixed seed, audit it, and add the author's numbers in its start.

    Args:
        path: file name for messages.

    Raises:
        Refusal: the submission is malformed, or its network breaks a rule.
    """
    network = started(data, 0, "audit", path)
    try:
        found = audit.audit(network, path, exporter(data))
    except AuditError as error:
        if data.doubt and error.rule == "batch":  # the doubt says why
            raise plugins.error_of(data.doubt) from error
        raise
    if data.doubt:
        raise plugins.error_of(data.doubt)
    return network, with_numbers_of_start(found, data, path)


@reading()
def ledger_of(data: Submission, path: str) -> Ledger:
    """Return the ledger of a submission, without the checks of an audit that only its execution can answer.

    Args:
        path: file name for messages.

    Raises:
        Refusal: the submission is malformed, holds foreign operators, or has a start that was trained.
    """
    network, exported = started(data, 0, "audit", path), exporter(data)
    train, evaluation = (exported(network, training, path) for training in (True, False))
    for program in (train, evaluation):
        audit.refuse_foreign_operators(program, path)
        audit.refuse_storage(program, path)
    found = Audit(count(network, train, evaluation, path), train, evaluation)
    return with_numbers_of_start(found, data, path).ledger


def exporter(data: Submission) -> Exporter:
    """Return a function that exports the network of a submission, with the lines and layers of its plug-in."""

    def exported(network: nn.Module, training: bool, path: str) -> ExportedProgram:
        program = audit.export(network, training, path)
        annotate(program, data, "train" if training else "evaluation", path)
        return program

    return exported


def digest_of_start(network: nn.Module) -> str:
    """Return a SHA-256 of the names and bytes of all parameters and buffers, with all names of a tied one."""
    digest = hashlib.sha256()
    for name, tensor in sorted(audit.every_tensor(network), key=lambda named: named[0]):
        values = tensor.detach().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)} ".encode() + values.numpy().tobytes())
    return digest.hexdigest()
