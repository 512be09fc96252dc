"""Random numbers: the seed of each random stream is a pure function of (seed, epoch, purpose)."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


def derive_seed(seed: int, epoch: int, purpose: str) -> int:
    """Return a 63-bit seed that is a pure function of its arguments, by SHA-256."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seed_everything(seed: int, epoch: int, purpose: str) -> None:
    """Seed the global random generators of torch (all devices), numpy and Python, which a plug-in may use."""
    derived = derive_seed(seed, epoch, purpose)
    torch.manual_seed(derived)
    np.random.seed(derived % 2**32)
    random.seed(derived)
