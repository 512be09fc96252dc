"""The roofline: what memory and arithmetic units of a device allow at most."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.fx import Node

from harness.audit import Audit, operators, short_name
from harness.data import SIDE
from harness.spec import ComputeMode

COPIED = 2**28
"""Bytes copied to measure memory: far more than any cache holds."""

SQUARE = {"cpu": 2048, "cuda": 8192}
"""Side of the matrices multiplied to measure arithmetic."""

ROUNDS, CALLS = 3, 4
"""Rounds of calls that a measurement takes."""


@dataclass(frozen=True)
class Roofline:
    """What keeps training from being any faster on this machine.

    Attributes:
        bandwidth: measured bytes a second that a large copy reads and writes.
        rate: measured floating-point operations a second of a large matrix product, in the precision used.
        bytes: that convolutions and linear layers must read and write for one image, forward and backward.
        operations: that they must do.
    """

    bandwidth: float
    rate: float
    bytes: float
    operations: float

    @property
    def images_per_second(self) -> float:
        """The images a second at which the scarcer of the two is used up."""
        return min(self.bandwidth / self.bytes, self.rate / self.operations)


def measure_roofline(found: Audit, chosen: ComputeMode, device: torch.device) -> Roofline:
    """Measure what memory and arithmetic units of `device` do at best, and count what a network asks of them."""
    dtype = torch.bfloat16 if chosen.precision == "bfloat16" else torch.float32
    operations, numbers = work(found)
    source = torch.ones(COPIED // 4, device=device)
    target = torch.empty_like(source)
    side = SQUARE[device.type]
    square = torch.ones(side, side, dtype=dtype, device=device)
    return Roofline(
        bandwidth=2 * COPIED / _fastest(lambda: target.copy_(source), device),
        rate=2 * side**3 / _fastest(lambda: square @ square, device),
        bytes=numbers * dtype.itemsize,
        operations=operations,
    )


def work(found: Audit) -> tuple[int, int]:
    """Count the operations, and the numbers read or written, that training on one image takes at least.

    Convolutions and linear layers alone, as if all between them were free: forward they read their input
    and write their output; backward they read both again and write the input's gradient. A network's
    first layer needs no gradient of its input. A network without any reads its images at least.
    """
    operations = numbers = 0
    for node in operators(found.train):
        if short_name(node) in ("conv2d", "linear"):
            inputs, outputs = _numbers(node.args[0]), _numbers(node)
            is_first = str(node.args[0]) in found.train.graph_signature.user_inputs
            operations += 2 * outputs * _numbers(node.args[1]) * (2 if is_first else 3)
            numbers += 2 * outputs + inputs * (2 if is_first else 3)
    return max(operations, SIDE**2), max(numbers, SIDE**2)


def _numbers(node: object) -> int:
    """Return how many numbers a value holds for one image, or a weight for one output."""
    assert isinstance(node, Node)
    return int(math.prod(node.meta["val"].shape[1:]))


def _fastest(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds one call of `work` takes: the fastest of a few rounds of calls."""
    rounds = []
    for _ in range(ROUNDS + 1):  # one to warm up
        started = time.perf_counter()
        for _ in range(CALLS):
            work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        rounds.append((time.perf_counter() - started) / CALLS)
    return min(rounds)
