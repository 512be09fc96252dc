"""How fast training is on this machine, beside a plain PyTorch loop and beside the roofline."""

from harness.speed.roofline import Roofline, work
from harness.speed.speed import Speed, measure

__all__ = [
    "Roofline",
    "Speed",
    "measure",
    "work",
]
