"""Measures how fast training is on this machine, compared with a plain PyTorch loop and with the roofline."""

from harness.speed.roofline import Roofline, work
from harness.speed.speed import Speed, measure

__all__ = [
    "Roofline",
    "Speed",
    "measure",
    "work",
]
