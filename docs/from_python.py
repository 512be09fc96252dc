"""From Python: train two widths of a network, compare their curves, look at the board. Run it cell by cell, or whole.

It trains on scikit-learn's digits, a minute or less; put "mnist" in the place of "digits" for the real thing.
"""

# %% A network: two convolutions, global average pooling and a linear layer.
from pathlib import Path

import harness

NETWORK = '''"""Two convolutions, global average pooling and a linear layer."""

from torch import nn


def build(*, width: int = 16) -> nn.Module:
    """Return a network from (N, 1, 28, 28) float images to (N, 10) logits."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, stride=2),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, 10),
    )
'''
Path("small.py").write_text(NETWORK, encoding="utf-8")

# %% What it stores, before anything is trained.
counted = harness.check("small.py", {"width": 8})
print(f"{counted.parameters:,} parameters")
print(counted.layers)

# %% Three seeds of each of two widths. What is finished already is not trained again.
recipe = {"epochs": 4, "batch_size": 32, "lr": 0.2}
narrow = harness.run("small.py", seeds=3, dataset="digits", settings={**recipe, "width": 4})
wide = harness.run("small.py", seeds=3, dataset="digits", settings={**recipe, "width": 8})
for run in (*narrow, *wide):
    print(f"{run.name}: {100 * run.accuracy:.2f} %, recorded in {run.path}")

# %% The curve of a run is a pandas frame, its weights are tensors by name.
print(wide[0].curve[["train_loss", "test_loss", "test_accuracy"]])
print({name: tuple(tensor.shape) for name, tensor in wide[0].weights.items()})

# %% The board: a row a network.
print(harness.board("digits")[["network", "parameters", "accuracy", "n"]])
