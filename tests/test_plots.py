"""Figures show the numbers they were given, all of them, in place."""

from __future__ import annotations

import numpy as np
import pytest

from harness.backprop import WEIGHTS, Problem, sweep
from harness.events import Epoch, Trial
from harness.journal import Outcome
from harness.plots import (
    confusion_matrix,
    hardest_images,
    learning_curves,
    sizes_and_errors,
    study,
    sweep_losses,
    sweep_weights,
)
from harness.spec import Knob
from harness.statistics import summarise

EPOCHS = [
    Epoch(
        number=n,
        lr=0.1,
        train_loss=1 / n,
        train_accuracy=1 - 0.1 / n,
        seconds=1.0,
        images_per_second=1.0,
        held_out_loss=2 / n,
        held_out_accuracy=1 - 0.2 / n,
    )
    for n in range(1, 6)
]


def test_learning_curves_show_every_epoch_and_target() -> None:
    left, right = learning_curves(EPOCHS, "a title", 0.994).axes
    assert [list(line.get_ydata()) for line in left.lines] == [
        [epoch.train_loss for epoch in EPOCHS],
        [epoch.held_out_loss for epoch in EPOCHS],
    ]
    assert list(right.lines[1].get_ydata()) == pytest.approx([100 * (epoch.held_out_accuracy or 0) for epoch in EPOCHS])
    assert list(right.lines[2].get_ydata()) == [99.4, 99.4]


def test_missing_target_is_not_drawn() -> None:
    _, right = learning_curves(EPOCHS[:1], "one epoch", None).axes
    assert len(right.lines) == 2


def test_confusion_matrix_colours_only_mistakes() -> None:
    counts = np.arange(100).reshape(10, 10)
    (axes,) = confusion_matrix(counts, "a title").axes
    assert [text.get_text() for text in axes.texts] == [str(count) for count in range(100)]
    colours = axes.collections[0].get_array().reshape(10, 10)
    assert np.array_equal(colours, np.where(np.eye(10, dtype=bool), 0, counts))


@pytest.mark.parametrize("count", [0, 3, 25])
def test_hard_images_have_captions(count: int) -> None:
    images, positions = np.zeros((count, 28, 28), np.uint8), np.arange(count) + 100
    figure = hardest_images(Outcome(np.full(200, 1), np.full(200, 7), positions, np.full(count, 0.987), images))
    captions = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert captions == [f"7, not 1 (99 %)\n#{position}" for position in positions]


class TestSweep:
    trajectories = sweep(Problem(targets=(0.5, 0.5)), (1.0, 128.0), 20)

    def test_losses_have_linear_and_logarithmic_axes(self) -> None:
        left, right = sweep_losses(self.trajectories, "a title").axes
        assert (left.get_yscale(), right.get_yscale()) == ("linear", "log")
        for axes in (left, right):
            drawn = [list(line.get_ydata()) for line in axes.lines if len(line.get_ydata())]
            assert drawn == [[row["E_total"] for row in trajectory.rows] for trajectory in self.trajectories]

    def test_unstable_rate_is_dashed_and_labelled(self) -> None:
        figure = sweep_losses(self.trajectories, "a title")
        stable, unstable = (line for line in figure.axes[0].lines if len(line.get_ydata()))
        assert (stable.get_linestyle(), unstable.get_linestyle()) == ("-", "--")
        assert "unstable" in [text.get_text() for text in figure.legends[0].get_texts()]

    def test_every_weight_has_a_panel(self) -> None:
        figure = sweep_weights(self.trajectories, "a title")
        assert [axes.get_title() for axes in figure.axes] == list(WEIGHTS)
        drawn = [list(line.get_ydata()) for line in figure.axes[4].lines if len(line.get_ydata())]
        assert drawn == [[row["w5"] for row in trajectory.rows] for trajectory in self.trajectories]


class TestStudy:
    def trials(self) -> list[Trial]:
        settings: list[dict[str, Knob]] = [
            {"kind": "a", "lr": 0.001 * 4**n, "width": n % 4 + 1, **({"rare": True} if n % 2 else {})} for n in range(8)
        ]
        done = [Trial(n, "complete", 0.9 + n / 100, chosen) for n, chosen in enumerate(settings)]
        return [*done, Trial(8, "pruned", 0.5, settings[0]), Trial(9, "infeasible", None, settings[1])]

    def test_history_shows_every_scored_trial(self) -> None:
        axes = study(self.trials(), {}, "a title")["history"].axes[0]
        points = [point for collection in axes.collections for point in collection.get_offsets().tolist()]
        assert points == [[trial.number, 100 * (trial.value or 0)] for trial in self.trials()[:9]]

    def test_conditional_setting_is_drawn_where_suggested(self) -> None:
        panels = study(self.trials(), {}, "a title")["slices"].axes
        assert [axes.get_xlabel() for axes in panels] == ["kind", "lr", "width", "rare"]
        assert [len(axes.collections[0].get_offsets()) for axes in panels] == [8, 8, 8, 4]
        assert [axes.get_xscale() for axes in panels[:3]] == ["linear", "log", "linear"]

    @pytest.mark.parametrize("other", ["width", "kind", "rare"])
    def test_contour_shows_two_most_important_settings(self, other: str) -> None:
        figure = study(self.trials(), {"lr": 0.6, other: 0.3, "dropout": 0.1}, "a title")["contour"]
        assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("lr", other)

    def test_study_without_settings_has_no_slices(self) -> None:
        assert "slices" not in study([Trial(0, "complete", 0.9, {})], {}, "a title")

    def test_history_needs_no_complete_trial(self, recwarn: pytest.WarningsRecorder) -> None:
        assert set(study(self.trials()[9:], {}, "a title")) == {"history", "epochs"}
        assert not recwarn.list


@pytest.mark.filterwarnings("error")
def test_sizes_without_ranked_row_have_no_legend() -> None:
    figure = sizes_and_errors(["net"], [550], [summarise([0.9])], front=[], target=None)
    assert figure.axes[0].get_legend() is None
