"""Records that training and studies yield: epochs, checkpoints, trials, studies and results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from harness.spec import Knob

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

TrialState = Literal["complete", "pruned", "infeasible", "diverged", "failed"]

StudyState = Literal["running", "stopped", "finished"]


@dataclass(frozen=True)
class Epoch:
    """The measurements of one epoch of training.

    Attributes:
        number: 1 for the first epoch.
        lr: learning rate of the epoch's last step.
        train_loss: mean training loss per image, in training mode, measured while the weights change.
        train_accuracy: likewise, as a fraction of 1.
        seconds: device time of the training steps, in seconds, without the work of interleaved runs.
        images_per_second: training images per second of that time.
        held_out_loss: mean cross-entropy on the test set or, in a study, on its validation images; None if the
            epoch was not scored.
        held_out_accuracy: likewise, as a fraction of 1.
        wall_seconds: wall-clock time of the epoch, in seconds; it includes the work of interleaved runs. None in
            older records, whose `seconds` are the wall-clock time.
    """

    number: int
    lr: float
    train_loss: float
    train_accuracy: float
    seconds: float
    images_per_second: float
    held_out_loss: float | None = None
    held_out_accuracy: float | None = None
    wall_seconds: float | None = None

    CLOCKED: ClassVar[tuple[str, ...]] = ("seconds", "images_per_second", "wall_seconds")
    """Fields that are timings. All others are equal each time the epoch is trained."""

    @property
    def elapsed(self) -> float:
        """Wall-clock time of the epoch, in seconds."""
        return self.seconds if self.wall_seconds is None else self.wall_seconds


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The state of a training after an epoch. With the seed it is enough to resume with the same bits.

    Attributes:
        epoch: the number of that epoch.
        network: parameters and buffers by name.
        average: the averaged parameters and buffers by name; empty without averaging.
        optimizer: for each trained parameter, in the optimiser's order, its state by name.
    """

    epoch: int
    network: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizer: list[dict[str, Tensor]]


@dataclass(frozen=True)
class Trial:
    """One finished trial of a study.

    Attributes:
        number: 0 for the first trial.
        state: complete, pruned (stopped early), infeasible (over budget, untrained), diverged or failed.
        value: validation accuracy after its last trained epoch, as a fraction of 1; None if no epoch was trained.
        settings: what the study suggested: knobs and recipe fields by name.
        epochs: the epochs it trained.
        parameters: stored numbers of its network; None if they could not be counted.
        reason: why it is not complete; empty if it is.
        started, ended: milliseconds since 1970 (UTC).
        same_as: the trial with equal settings whose result this one reports; None if it was trained itself.
    """

    number: int
    state: TrialState
    value: float | None
    settings: Mapping[str, Knob]
    epochs: tuple[Epoch, ...] = ()
    parameters: int | None = None
    reason: str = ""
    started: int = 0
    ended: int = 0
    same_as: int | None = None


@dataclass(frozen=True)
class StudyRecord:
    """A recorded study.

    Attributes:
        run_id: identifies the study.
        search: everything that distinguishes it from other studies: files and their hashes, dataset, seed, ...
        started: milliseconds since 1970 (UTC).
        wanted: the number of finished trials it should reach.
        state: ``finished`` once it has them (complete, pruned and infeasible ones count), ``running`` while a
            process works on it, else ``stopped``.
        trials: in the order of their numbers.
        importances: by setting, the share of the score's variance that it explains; empty before the study is
            finished, or where it cannot be estimated.
        confirmation: the comparison of the winner with the default recipe on the test set; empty before it is made.
    """

    run_id: str
    search: Mapping[str, Any]
    started: int
    wanted: int
    state: StudyState
    trials: tuple[Trial, ...]
    importances: Mapping[str, float]
    confirmation: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Result:
    """The outcome of one finished job.

    Attributes:
        accuracy: held-out accuracy after the last epoch: the score of a run, and the objective of a study's trial.
        class_accuracy: likewise, for each class from 0 to 9.
        loss: mean held-out cross-entropy after the last epoch.
        best_accuracy: highest held-out accuracy of any epoch; chosen on the test set, so it is never used for ranking.
        best_epoch: the first epoch that reached it.
        epochs_to_target: first epoch at or above the budget's accuracy, or None.
        seconds: time of training and scoring, in seconds.
        wall_seconds: wall-clock time of the job, in seconds; it includes the work of interleaved runs.
        logits: (N, 10) float32, the scored network's logits for the held-out images.
        labels: (N,) int64.
        images: (K, 28, 28) uint8, the held-out images with the most confident wrong predictions.
        hardest: (K,) their positions among the held-out images.
        weights: state dict of the scored network, on the CPU.
    """

    accuracy: float
    class_accuracy: tuple[float, ...]
    loss: float
    best_accuracy: float
    best_epoch: int
    epochs_to_target: int | None
    seconds: float
    wall_seconds: float
    logits: np.ndarray
    labels: np.ndarray
    images: np.ndarray
    hardest: np.ndarray
    weights: Mapping[str, Tensor]
