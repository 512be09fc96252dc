"""Loads what torch loads late."""

from __future__ import annotations

import functools


@functools.cache
def warm_up() -> None:
    """Export a small network, once in a process: torch loads 1.4 s of modules at the first export."""
    import torch  # deferred: the command line imports this package, and prints its help without torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 2))
        batch = {0: torch.export.Dim("batch", min=2, max=9)}
        torch.export.export(network, (torch.zeros(3, 1, 8, 8),), dynamic_shapes=(batch,))
