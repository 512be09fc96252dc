"""Training: the loop over epochs, and how its steps are computed on a device.

`fit` is the loop and `steps` a single step; `seeds`, `augment`, `optim` and `evaluate` have the mathematics of both.
`compute` chooses the compute mode for a machine, and `compatible` checks that a network trains correctly in it.
`memory_layout` prepares a graph for its mode with `folding`, `batch_norm`, `padding` and `kernels`; `capture` records
a step as a CUDA graph.
"""

from harness.seeds import derive_seed, seed_everything
from harness.training.capture import Uncapturable
from harness.training.compatible import Choice, choose_compatible, unrepeatable
from harness.training.evaluate import (
    COMPILED_BATCH,
    Target,
    class_accuracy,
    confusion,
    hardest,
    predict,
    score,
    softmax,
    verdict,
)
from harness.training.fit import fit
from harness.training.memory_layout import accelerate_scoring
from harness.training.optim import Average, learning_rates, make_optimizer
from harness.training.steps import Miscompiled, Steps
from harness.training.trial_input import tensors_by_name

__all__ = [
    "COMPILED_BATCH",
    "Average",
    "Choice",
    "Miscompiled",
    "Steps",
    "Target",
    "Uncapturable",
    "accelerate_scoring",
    "choose_compatible",
    "class_accuracy",
    "confusion",
    "derive_seed",
    "fit",
    "hardest",
    "learning_rates",
    "make_optimizer",
    "predict",
    "score",
    "seed_everything",
    "softmax",
    "tensors_by_name",
    "unrepeatable",
    "verdict",
]
