"""From Python: train two widths of a network, compare their curves, look at the board. Run it cell by cell, or whole.

It trains on scikit-learn's digits, a minute or less; put "mnist" in the place of "digits" for the real thing.
"""

# %% A network to start from: the same file that `python -m harness new` writes.
from pathlib import Path

import harness
from harness.cli.new import TEMPLATE

Path("small.py").write_text(TEMPLATE, encoding="utf-8")

# %% What it stores, before anything is trained.
counted = harness.check("small.py", {"width": 8})
print(f"{counted.parameters:,} parameters")
print(counted.layers)

# %% Three seeds of each of two widths. What is finished already is not trained again.
recipe = {"epochs": 2, "schedule": "constant"}
narrow = harness.run("small.py", seeds=3, dataset="digits", settings={**recipe, "width": 4})
wide = harness.run("small.py", seeds=3, dataset="digits", settings={**recipe, "width": 8})
for run in (*narrow, *wide):
    print(f"{run.name}: {100 * run.accuracy:.2f} %, recorded in {run.path}")

# %% The curve of a run is a pandas frame, its weights are tensors by name.
print(wide[0].curve[["train_loss", "test_loss", "test_accuracy"]])
print({name: tuple(tensor.shape) for name, tensor in wide[0].weights.items()})

# %% The board: a row a network.
print(harness.board("digits")[["network", "parameters", "accuracy", "n"]])
