import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor
from torch.nn import functional as F

from harness.data import Dataset, Split, to_float
from harness.spec import BUDGET
from harness.training import Target, class_accuracy, confusion, hardest, predict, score, softmax, verdict
from harness.training.evaluate import BATCH

LOGITS = hnp.arrays(np.float32, st.tuples(st.integers(1, 30), st.just(10)), elements=st.floats(-50, 50, width=32))


def labels_for(logits: np.ndarray) -> np.ndarray:
    """Return labels that about half of the answers meet."""
    return np.where(np.arange(len(logits)) % 2 == 0, logits.argmax(1), np.arange(len(logits)) % 10)


# --- scores ----------------------------------------------------------------------------------------------


@given(LOGITS)
def test_score_matches_plain_loop(logits: np.ndarray) -> None:
    labels = labels_for(logits)
    loss, right = 0.0, 0
    for answers, label in zip(logits.tolist(), labels.tolist(), strict=True):
        largest = max(answers)
        loss += largest + math.log(sum(math.exp(answer - largest) for answer in answers)) - answers[label]
        right += answers.index(largest) == label
    found = score(torch.from_numpy(logits), torch.from_numpy(labels))
    assert found.accuracy == right / len(logits)
    assert found.loss == pytest.approx(loss / len(logits), rel=1e-5, abs=1e-5)


@given(LOGITS, st.integers(0, 9))
def test_nan_prediction_counts_as_wrong(logits: np.ndarray, column: int) -> None:
    answers = torch.from_numpy(logits)
    right = answers.argmax(1)
    assert score(answers, right).accuracy == 1
    answers[0, column] = torch.nan
    for label in (right, torch.full_like(right, column)):
        kept = answers[1:].argmax(1).eq(label[1:]).sum()
        assert score(answers, label).accuracy == int(kept) / len(answers)


def test_infinite_log_probabilities_keep_right_answers() -> None:
    certain = torch.full((1, 10), -math.inf)
    certain[0, 3] = 0.0
    assert score(certain, torch.tensor([3])).accuracy == 1
    assert score(certain, torch.tensor([3])).loss == 0


@given(LOGITS)
def test_cross_entropy_accepts_logits_and_log_probabilities(logits: np.ndarray) -> None:
    labels = torch.from_numpy(labels_for(logits))
    gradients, losses = [], []
    for head in (lambda answers: answers, lambda answers: F.log_softmax(answers, 1)):
        answers = torch.from_numpy(logits).double().requires_grad_()
        loss = F.cross_entropy(head(answers), labels)
        (gradient,) = torch.autograd.grad(loss, answers)
        gradients.append(gradient)
        losses.append(score(head(answers).detach(), labels).loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-9, abs=1e-9)
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-9, atol=1e-12)


# --- predictions -----------------------------------------------------------------------------------------


class Flat:
    """A network that answers with the first ten pixels, and remembers what it was given."""

    def __init__(self) -> None:
        self.weight = torch.ones((), requires_grad=True)
        self.batches: list[Tensor] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.batches.append(images)
        return (images.flatten(1)[:, :10] * self.weight).bfloat16()


def test_predictions_use_normalised_images_in_order() -> None:
    count = 2 * BATCH["cpu"] + 7
    pixels = torch.randint(0, 256, (count, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = Split(pixels, torch.zeros(count, dtype=torch.int64))
    dataset = Dataset("made up", "", 0.2, 0.4, False, split, split)
    network = Flat()
    logits = predict(network, dataset, split)
    assert [len(batch) for batch in network.batches] == [BATCH["cpu"], BATCH["cpu"], 7]
    assert torch.equal(torch.cat(network.batches), (to_float(pixels) - 0.2) / 0.4)
    assert torch.equal(logits, ((pixels.flatten(1)[:, :10].float() / 255 - 0.2) / 0.4).bfloat16().float())
    assert not logits.requires_grad


def test_black_is_zero_and_white_is_one() -> None:
    pixels = torch.tensor([0, 255, 51], dtype=torch.uint8).view(3, 1, 1).expand(3, 28, 28)
    assert to_float(pixels).shape == (3, 1, 28, 28)
    assert to_float(pixels)[:, 0, 0, 0].tolist() == pytest.approx([0, 1, 0.2])


@given(LOGITS)
def test_softmax_matches_torch(logits: np.ndarray) -> None:
    assert np.allclose(softmax(logits), torch.from_numpy(logits).double().softmax(1).numpy(), rtol=1e-9, atol=0)


# --- confusion -------------------------------------------------------------------------------------------


@given(LOGITS)
def test_confusion_counts_every_image_once(logits: np.ndarray) -> None:
    labels = labels_for(logits)
    counts = confusion(logits.argmax(1), labels)
    assert counts.sum(1).tolist() == np.bincount(labels, minlength=10).tolist()
    assert counts.sum(0).tolist() == np.bincount(logits.argmax(1), minlength=10).tolist()
    assert counts.trace() / len(labels) == score(torch.from_numpy(logits), torch.from_numpy(labels)).accuracy


def test_class_accuracy_is_the_diagonal_share() -> None:
    counts = np.eye(10, dtype=np.int64)
    counts[3, 3], counts[3, 5] = 3, 1
    counts[7, 7], counts[7, 1] = 0, 2
    found = class_accuracy(counts)
    assert (found[3], found[7]) == (0.75, 0.0)
    assert (np.delete(found, [3, 7]) == 1).all()


# --- the hardest images ----------------------------------------------------------------------------------


@given(LOGITS, st.integers(0, 40))
def test_hardest_images_are_most_confident_errors(logits: np.ndarray, count: int) -> None:
    labels = labels_for(logits)
    found = hardest(logits, labels, count)
    wrong = np.flatnonzero(logits.argmax(1) != labels)
    confidence = softmax(logits).max(1)
    assert len(found) == len(set(found)) == min(count, len(wrong))
    assert set(found) <= set(wrong)
    assert (np.diff(confidence[found]) <= 0).all()
    left_out = np.setdiff1d(wrong, found)
    if len(found) and len(left_out):
        assert confidence[left_out].max() <= confidence[found].min()


def test_equally_hard_images_keep_their_order() -> None:
    sure = np.arange(500) * 7 % 5 < 2
    logits = np.where(sure[:, None], 9, 1).astype(np.float32) * np.eye(10, dtype=np.float32)[1]
    wanted = [*np.flatnonzero(sure), *np.flatnonzero(~sure)]
    assert hardest(logits, np.zeros(500, dtype=np.int64), 400).tolist() == wanted[:400]


# --- the verdict -----------------------------------------------------------------------------------------


def test_run_meets_all_three_targets() -> None:
    assert verdict(19_698, 19, 0.9941, BUDGET, is_benchmark=True) == [
        Target("parameters", "19,698", "at most 20,000", True),
        Target("epochs", "19", "fewer than 20", True),
        Target("accuracy", "99.41 %", "at least 99.40 %", True),
    ]


def test_digits_have_no_target_accuracy() -> None:
    assert [target.name for target in verdict(100, 1, 0.1, BUDGET, is_benchmark=False)] == ["parameters", "epochs"]


@example(parameters=20_000, epochs=19, right=9_940)
@given(parameters=st.integers(0, 40_000), epochs=st.integers(1, 40), right=st.integers(0, 10_000))
def test_targets_are_met_up_to_their_limit(parameters: int, epochs: int, right: int) -> None:
    met = [target.met for target in verdict(parameters, epochs, right / 10_000, BUDGET, is_benchmark=True)]
    assert met == [parameters <= 20_000, epochs < 20, right >= 9_940]
