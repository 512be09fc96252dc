"""Small experiments on a network: made-up images, one training step, and how far two results lie apart."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

TOLERANCE = 1e-4
"""How far two answers may lie apart and still be the same answer (of logits of ordinary size)."""


def made_up_images(count: int) -> Tensor:
    """Made-up images (N, 1, 28, 28), in the range of normalised digits."""
    generator = torch.Generator().manual_seed(count)
    return torch.rand(count, 1, 28, 28, generator=generator).mul(3.2).sub(0.4)


class _Noting(TorchDispatchMode):
    """Notes each operator that is called, and the numbers and words among its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        written = [each for each in tree_leaves((args, kwargs)) if isinstance(each, (bool, complex, float, int, str))]
        self.noted.append(f"{func} {written}")
        return func(*args, **(kwargs or {}))


def calls_digest(network: nn.Module) -> str:
    """Return a digest of what a network calls in both modes, in its order: with another one it is another network."""
    with torch.random.fork_rng(), restored(network), quiet(), torch.no_grad(), _Noting() as calls:
        for training in (False, True):
            network.train(training)
            network(made_up_images(6))
    return hashlib.sha256("\n".join(calls.noted).encode()).hexdigest()


@contextlib.contextmanager
def restored(network: nn.Module) -> Iterator[None]:
    """Put every parameter and buffer back as it was."""
    before = [(tensor, tensor.detach().clone()) for tensor in (*network.parameters(), *network.buffers())]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, values in before:
                tensor.copy_(values)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep torch's warnings and printed graphs from the user: what matters is in the refusal."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        lost = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(lost), contextlib.redirect_stderr(lost):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def gist(error: Exception) -> str:
    """Return an error's type and the first line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"


def one_step(network: nn.Module, trained: Callable[[Tensor], Tensor], images: Tensor) -> dict[str, Tensor]:
    """One training pass through `trained`: answers, gradients and moved buffers by name; state is put back."""
    labels = torch.arange(len(images), device=images.device) % 10
    with restored(network), quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        predictions = trained(images)
        nn.functional.cross_entropy(predictions, labels).backward()
        seen = {"answers": predictions.detach()}
        seen.update((f"buffer {name}", buffer.clone()) for name, buffer in network.named_buffers())
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            seen[f"gradient {name}"] = parameter.grad
            parameter.grad = None
    return seen


@contextlib.contextmanager
def nudged(network: nn.Module, direction: int) -> Iterator[None]:
    """Move every number of the network by 0.2, up or down by lot; the opposite `direction` moves it the other way."""
    with restored(network), torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.is_floating_point():
                signs = torch.randint(2, tensor.shape, generator=generator).mul(2).sub(1)
                tensor.add_(signs.to(tensor), alpha=0.2 * direction)
        yield


def relative_distance(left: Tensor, right: Tensor) -> float:
    """Largest difference, relative to the larger of 1 and the size of `left`; NaN counts as infinite."""
    left, right = left.detach(), right.detach()
    differ = left != right  # elsewhere they are equal, also where both are infinite
    if not differ.any():
        return 0.0
    finite = left[left.isfinite()].abs()
    size = max(1.0, float(finite.max())) if finite.numel() else 1.0
    difference = float((left[differ].to(torch.float64) - right[differ].to(torch.float64)).abs().max()) / size
    return math.inf if math.isnan(difference) else difference
