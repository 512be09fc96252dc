"""Initial values depend on the seed: a network was not trained before its first epoch here."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import torch
from torch import Tensor, nn

from harness.audit.network import Audit
from harness.audit.probe import calls_digest
from harness.audit.rebuild import another_network
from harness.errors import AuditError

FREE_START = 1_000
"""Most initial values that may follow a fixed pattern, such as filters, positions or a cosine basis. More than
that are taken for weights trained before the first epoch."""


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
