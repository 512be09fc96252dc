"""Training: the loop, and how its steps are computed on a device."""

from harness.training.capture import Uncapturable
from harness.training.compatible import Choice, choose_suitable, unrepeatable
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
from harness.training.memory_layout import arrange_scoring
from harness.training.optim import Average, learning_rates, make_optimizer
from harness.training.seeds import derive_seed, seed_everything
from harness.training.steps import Miscompiled, Steps
from harness.training.trial_input import numbers

__all__ = [
    "COMPILED_BATCH",
    "Average",
    "Choice",
    "Miscompiled",
    "Steps",
    "Target",
    "Uncapturable",
    "arrange_scoring",
    "choose_suitable",
    "class_accuracy",
    "confusion",
    "derive_seed",
    "fit",
    "hardest",
    "learning_rates",
    "make_optimizer",
    "numbers",
    "predict",
    "score",
    "seed_everything",
    "softmax",
    "unrepeatable",
    "verdict",
]
