"""What no change may move from protocol 2 on, as far as it does not depend on the processor."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness import plugins, submission
from harness.data import load
from harness.spec import BUDGET, REFERENCE, Recipe
from harness.submission import Submission
from harness.training import learning_rates
from harness.training.steps import Steps

FILE = Path(__file__).parent.parent / "architectures" / "s6_gap.py"
RECIPE = Recipe(epochs=2, batch_size=240, lr=0.05, rotation=10, translate=0.1, scale=0.1, shear=0.1, zoom_p=0.5)
"""An epoch of six steps."""


@pytest.fixture(scope="module")
def data() -> Submission:
    """Return the network of s6_gap as data."""
    architecture = plugins.load(FILE)
    return submission.submit(architecture.source, architecture.path, architecture.knobs)


@pytest.fixture(scope="module")
def steps(data: Submission) -> Steps:
    """Return the first epoch of seed 0, trained plainly."""
    _, audited = submission.audited(data, "s6_gap.py")
    network = submission.started(data, 0, "weights", "s6_gap.py")
    graph = audited.graphs(network, torch.device("cpu")).train
    steps = Steps(graph, load("digits"), RECIPE, REFERENCE, None, None)
    steps.queue(0, 1, learning_rates(RECIPE, len(steps.sizes))[: len(steps.sizes)])
    return steps


def digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def test_protocol_is_pinned_here() -> None:
    assert BUDGET.protocol == 2, "a new protocol needs new numbers in this file, and a section in docs/protocol.md"


def test_first_weights_keep_their_bits(data: Submission) -> None:
    start = submission.started(data, 0, "weights", "s6_gap.py")
    assert submission.digest_of_start(start) == "262648e1a6683096a190d0463f749f0833642eba8d0dda676f2bd4409d50b759"


def test_order_of_images_keeps_its_bits(steps: Steps) -> None:
    assert digest(steps._order) == "37fe4ba73640aa7118cd9bdc9573c970c44f3f06c79b3a3a73c4663c7eb9c310"


def test_draws_of_augmentation_keep_their_bits(steps: Steps) -> None:
    assert digest(steps._draws) == "eaf71b19c96f6efdbadb14a07f6a186a2aeaf31ddc876a07d2784a662aeff3b2"


def test_losses_of_plain_steps_stay(steps: Steps) -> None:
    # The fifth depends on the number of threads by 4e-4: rounding grows from step to step.
    assert steps.losses[:4].tolist() == pytest.approx([2.41158, 2.17263, 2.05821, 1.98889], abs=1e-4)
