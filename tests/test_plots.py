"""Figures show the numbers they were given, all of them, in place."""

from __future__ import annotations

import numpy as np
import pytest

from harness.backprop import WEIGHTS, Problem, sweep
from harness.plots import confusion_matrix, hardest_images, learning_curves, sweep_losses, sweep_weights

EPOCHS = [
    {
        "number": n,
        "train_loss": 1 / n,
        "held_out_loss": 2 / n,
        "train_accuracy": 1 - 0.1 / n,
        "held_out_accuracy": 1 - 0.2 / n,
    }
    for n in range(1, 6)
]


def test_learning_curves_hold_every_epoch_and_the_target() -> None:
    left, right = learning_curves(EPOCHS, "a title", 0.994).axes
    assert [list(line.get_ydata()) for line in left.lines] == [
        [epoch["train_loss"] for epoch in EPOCHS],
        [epoch["held_out_loss"] for epoch in EPOCHS],
    ]
    assert list(right.lines[1].get_ydata()) == pytest.approx([100 * epoch["held_out_accuracy"] for epoch in EPOCHS])
    assert list(right.lines[2].get_ydata()) == [99.4, 99.4]


def test_without_a_target_none_is_drawn() -> None:
    _, right = learning_curves(EPOCHS[:1], "one epoch", None).axes
    assert len(right.lines) == 2


def test_the_confusion_matrix_writes_every_count_and_colours_mistakes_alone() -> None:
    counts = np.arange(100).reshape(10, 10)
    (axes,) = confusion_matrix(counts, "a title").axes
    assert [text.get_text() for text in axes.texts] == [str(count) for count in range(100)]
    colours = axes.collections[0].get_array().reshape(10, 10)
    assert np.array_equal(colours, np.where(np.eye(10, dtype=bool), 0, counts))


@pytest.mark.parametrize("count", [0, 3, 25])
def test_each_hard_image_is_shown_with_its_class_answer_and_position(count: int) -> None:
    images = np.zeros((count, 28, 28), np.uint8)
    labels, answers, positions = np.full(count, 7), np.full(count, 1), np.arange(count) + 100
    figure = hardest_images(images, labels, answers, np.full(count, 0.987), positions)
    captions = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert captions == [f"7, not 1 (99 %)\n#{position}" for position in positions]


class TestSweep:
    trajectories = sweep(Problem(targets=(0.5, 0.5)), (1.0, 128.0), 20)

    def test_a_loss_curve_a_rate_on_a_linear_and_a_logarithmic_axis(self) -> None:
        left, right = sweep_losses(self.trajectories, "a title").axes
        assert (left.get_yscale(), right.get_yscale()) == ("linear", "log")
        for axes in (left, right):
            drawn = [list(line.get_ydata()) for line in axes.lines if len(line.get_ydata())]
            assert drawn == [[row["E_total"] for row in trajectory.rows] for trajectory in self.trajectories]

    def test_an_unstable_rate_is_dashed_and_named_so(self) -> None:
        figure = sweep_losses(self.trajectories, "a title")
        stable, unstable = (line for line in figure.axes[0].lines if len(line.get_ydata()))
        assert (stable.get_linestyle(), unstable.get_linestyle()) == ("-", "--")
        assert "unstable" in [text.get_text() for text in figure.legends[0].get_texts()]

    def test_a_panel_a_weight(self) -> None:
        figure = sweep_weights(self.trajectories, "a title")
        assert [axes.get_title() for axes in figure.axes] == list(WEIGHTS)
        drawn = [list(line.get_ydata()) for line in figure.axes[4].lines if len(line.get_ydata())]
        assert drawn == [[row["w5"] for row in trajectory.rows] for trajectory in self.trajectories]
