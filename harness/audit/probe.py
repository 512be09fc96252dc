"""Helpers of the checks: synthetic images, one training pass, and the distance between two results."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import math
import warnings
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

TOLERANCE = 1e-4
"""Largest `relative_distance` between results that count as equal."""


TRAINED_TOGETHER = 24
"""Fewest images in the batch of a trial step: many numbers of parts of them are equal, as ghost batch norm needs."""

BLACK, WHITE = -0.4242129623889923, 2.821486711502075
"""The normalised values of bytes 0 and 255 in digits, which most of their pixels have."""


def made_up_images(count: int, seed: int | None = None) -> Tensor:
    """Return synthetic images (count, 1, 28, 28) as normalised digits are, the same for each `count` or `seed`.

    Four of ten pixels are black and one is white, exactly; the others are evenly between.
    """
    generator = torch.Generator().manual_seed(count if seed is None else seed)
    shades = torch.rand(count, 1, 28, 28, generator=generator).mul(2).sub(0.8)
    return torch.where(shades > 1, WHITE, shades.clamp(min=0).mul(WHITE - BLACK).add(BLACK))


def digit_like_images(count: int, seed: int | None = None) -> Tensor:
    """Return synthetic images (count, 1, 28, 28) that are black but for strokes in the middle, in the shades of bytes.

    They are the same for each `count` or `seed`.
    """
    generator = torch.Generator().manual_seed(count if seed is None else seed)
    coarse = torch.rand(count, 1, 6, 6, generator=generator)
    strokes = nn.functional.interpolate(coarse, size=(20, 20), mode="bicubic").sub(0.55).mul(5).clamp(0, 1)
    strokes = strokes.mul(255).round().div(255)
    return nn.functional.pad(strokes, [4] * 4).mul(WHITE - BLACK).add(BLACK)


class _CallRecorder(TorchDispatchMode):
    """Records each operator that is called, with the numbers and strings among its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls_made: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        written = [each for each in tree_leaves((args, kwargs)) if isinstance(each, (bool, complex, float, int, str))]
        self.calls_made.append(f"{func} {written}")
        return func(*args, **(kwargs or {}))


def calls_digest(network: nn.Module, images: int) -> str:
    """Return a digest of the operators that a network calls in both modes, in order: it differs for another network.

    Args:
        images: number of images that it takes in training.
    """

    def run() -> None:
        for training in (False, True):
            network.train(training)
            network(made_up_images(images))

    with torch.random.fork_rng(), restored(network), quiet(), torch.no_grad():
        network.train()
        calls = calls_of(run)
    return hashlib.sha256("\n".join(calls).encode()).hexdigest()


def calls_of(run: Callable[[], object]) -> list[str]:
    """Return the operators that a function calls, in order, each with its numbers."""
    with _CallRecorder() as calls:
        run()
    return calls.calls_made


@contextlib.contextmanager
def restored(network: nn.Module) -> Iterator[None]:
    """Restore all parameters and buffers of a network at the end of a block; also those replaced by other tensors."""
    before = [(tensor, tensor.detach().clone()) for tensor in (*network.parameters(), *network.buffers())]
    held = [(module, dict(module._buffers)) for module in network.modules()]
    try:
        yield
    finally:
        for module, buffers in held:
            module._buffers.update(buffers)
        with torch.no_grad():
            for tensor, values in before:
                tensor.copy_(values)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings, log messages and output of torch: the refusal has all that a user needs."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        discarded = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(discarded), contextlib.redirect_stderr(discarded):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def gist(error: Exception) -> str:
    """Return an error's type and the first line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"


def one_step(
    network: nn.Module,
    trained: Callable[[Tensor], Tensor],
    images: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Run one training pass, without an update, and restore the network's state.

    Args:
        network: holds the parameters and buffers.
        trained: maps images to logits with these tensors: the network itself, or a graph.
        images: (N, 1, 28, 28).
        loss: maps logits and labels to a number.
        seed: of what the network draws, such as dropout's masks.

    Returns:
        By name: the output, each parameter's gradient and each updated buffer.
    """
    labels = torch.arange(len(images), device=images.device) % 10
    with restored(network), quiet(), torch.random.fork_rng():
        torch.manual_seed(seed)
        predictions = trained(images)
        loss(predictions, labels).backward()
        seen = {"answers": predictions.detach()}
        seen.update((f"buffer {name}", buffer.clone()) for name, buffer in network.named_buffers())
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            seen[f"gradient {name}"] = parameter.grad
            parameter.grad = None
    return seen


@contextlib.contextmanager
def nudged(network: nn.Module, direction: int, still: Collection[str] = ()) -> Iterator[None]:
    """Move each floating-point number of a network by 0.2 in a random direction; a `direction` of -1 reverses all.

    Args:
        still: names of parameters that stay.
    """
    with restored(network), torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for name, tensor in (*network.named_parameters(), *network.named_buffers()):
            if tensor.is_floating_point() and name not in still:
                signs = torch.randint(2, tensor.shape, generator=generator).mul(2).sub(1)
                tensor.add_(signs.to(tensor), alpha=0.2 * direction)
        yield


def relative_distance(left: Tensor, right: Tensor) -> float:
    """Return the largest difference, relative to the larger of 1 and the largest value of `left`; inf for a NaN."""
    left, right = left.detach(), right.detach()
    differ = left != right  # elsewhere they are equal, or both are the same infinity
    if not differ.any():
        return 0.0
    finite = left[left.isfinite()].abs()
    size = max(1.0, float(finite.max())) if finite.numel() else 1.0
    precise = torch.complex128 if left.is_complex() else torch.float64
    difference = float((left[differ].to(precise) - right[differ].to(precise)).abs().max()) / size
    return math.inf if math.isnan(difference) else difference
