"""What training and studies yield: epochs, checkpoints, results, trials."""

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
    """What one epoch of training came to.

    Attributes:
        number: 1 for the first.
        lr: learning rate of the epoch's last step.
        train_loss: mean training loss per image, in train mode, while the weights moved.
        train_accuracy: likewise, as a fraction of 1.
        seconds: that the device took for the training steps, without what others had between them.
        images_per_second: training images a second over that time.
        held_out_loss: mean cross-entropy on the test set, in a study on its validation images; None where it
            was not scored.
        held_out_accuracy: likewise, as a fraction of 1.
        wall_seconds: that passed meanwhile; of runs in turns, the others' audits and turns are in it. None in records
            from before it was kept apart: there `seconds` are these.
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
    """What is read off a clock: all else is the same whenever the epoch is trained."""

    @property
    def elapsed(self) -> float:
        """The seconds that passed while it was trained."""
        return self.seconds if self.wall_seconds is None else self.wall_seconds


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Where a training stands after a whole epoch: with the seed, all that is needed to go on bit for bit.

    Attributes:
        epoch: the number of that epoch.
        network: parameters and buffers by name.
        average: likewise of the averaged weights, empty where there are none.
        optimizer: of each trained parameter in the optimiser's order, its state by name.
    """

    epoch: int
    network: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizer: list[dict[str, Tensor]]


@dataclass(frozen=True)
class Trial:
    """One finished trial of a study.

    Attributes:
        number: 0 for the first.
        state: complete, pruned (stopped early), infeasible (over budget, untrained), diverged or failed.
        value: validation accuracy after the last epoch it trained; None if it trained none.
        settings: what the study suggested, knobs and recipe fields by name.
        epochs: its epochs.
        parameters: stored numbers of its network; None if it could not be counted.
        reason: why it is not complete; empty if it is.
        started, ended: milliseconds since 1970.
        same_as: the trial of equal settings whose outcome this one was told; None if it was trained itself.
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
    """A study as recorded.

    Attributes:
        run_id: its identity.
        search: what makes it this study and no other: files and their hashes, dataset, seed, ...
        started: milliseconds since 1970.
        wanted: finished trials it is to have.
        state: ``finished`` once it has them (complete, pruned and infeasible ones count), ``running`` while a
            process is at work on it, else ``stopped``.
        trials: by number.
        importances: share of the score's variation that each setting explains; empty before the study is finished, or
            where nobody can tell.
        confirmation: how the winner did against the default recipe on the test set; empty before.
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
        accuracy: held-out accuracy after the last epoch: the score of a run, the objective of a study's trial.
        class_accuracy: likewise, of each class from 0 to 9.
        loss: mean held-out cross-entropy after the last epoch.
        best_accuracy: highest held-out accuracy of any epoch, picked on the test set; never ranks.
        best_epoch: the first epoch that reached it.
        epochs_to_target: first epoch at or above the budget's accuracy, or None.
        seconds: that training and scoring took.
        wall_seconds: that passed meanwhile; of runs in turns, the others' audits and turns are in it.
        logits: (N, 10) float32, the scored network's answers on the held-out images.
        labels: (N,) int64.
        images: (K, 28, 28) uint8, the most confidently wrong held-out images.
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
