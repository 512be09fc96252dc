"""The roofline: the highest speed that memory bandwidth and arithmetic of a device allow."""

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
"""Bytes copied to measure memory bandwidth: far more than any cache holds."""

SQUARE = {"cpu": 2048, "cuda": 8192}
"""Side of the square matrices whose product measures the arithmetic rate."""

ROUNDS, CALLS = 3, 4
"""Rounds of a measurement, and calls in each round."""


@dataclass(frozen=True)
class Roofline:
    """The upper limit of training speed on a device.

    Attributes:
        bandwidth: measured memory bandwidth of a large copy, in bytes per second, reads and writes.
        rate: measured rate of a large matrix product in the precision used, in floating-point operations per second.
        bytes: bytes that convolutions and linear layers must read and write for one image, forward and backward.
        operations: floating-point operations that they must do for one image.
    """

    bandwidth: float
    rate: float
    bytes: float
    operations: float

    @property
    def images_per_second(self) -> float:
        """The limit in images per second, from bandwidth or rate, whichever is lower."""
        return min(self.bandwidth / self.bytes, self.rate / self.operations)


def measure_roofline(found: Audit, chosen: ComputeMode, device: torch.device) -> Roofline:
    """Measure bandwidth and arithmetic rate of `device`, and count what training a network needs of both."""
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
    """Return the least operations, and the least numbers read or written, of training on one image.

    Only convolutions and linear layers count, as if everything else were free: forward they read the input and write
    the output; backward they read the output's gradient and the input, and write the input's gradient, which the first
    layer does not need. A network without such layers still reads its image.
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
    """Return how many numbers a value holds for one image, or a weight for one output channel."""
    assert isinstance(node, Node)
    return int(math.prod(node.meta["val"].shape[1:]))


def _fastest(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of one call of `work`: the mean of the fastest round."""
    rounds = []
    for _ in range(ROUNDS + 1):  # one to warm up
        started = time.perf_counter()
        for _ in range(CALLS):
            work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        rounds.append((time.perf_counter() - started) / CALLS)
    return min(rounds)
