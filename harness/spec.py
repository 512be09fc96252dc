"""Validated plain data shared by all packages: budget, recipe, architecture, study, compute mode and job.

All are frozen dataclasses. `Recipe` checks its values when it is created; the classes do nothing else.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from harness.errors import UsageError, did_you_mean

HeldOut = Literal["test", "validation"]
"""What a job is scored on: the test set or, in a study, a part of the training set."""

Knob = bool | int | float | str
"""The types a knob of `build` and a field of `Recipe` may have."""


@dataclass(frozen=True)
class Budget:
    """The rules of the challenge, as data; printed with every verdict.

    Attributes:
        parameters: most stored numbers a network may have, in 32-bit units.
        epochs: most passes over the training set (the rule says "fewer than 20").
        accuracy: test accuracy to reach after the last epoch, as a fraction of 1.
        protocol: version of the rules; it is raised with each change that could affect a score.
    """

    parameters: int = 20_000
    epochs: int = 19
    accuracy: float = 0.994
    protocol: int = 2


BUDGET = Budget()

CARRIED_FROM = (1,)
"""Older protocols whose runs can be carried over, where graph, count and start are equal (docs/protocol.md)."""

LONGEST = 100_000
"""Largest number of epochs that a setting may name, whatever the budget; a larger one is taken for a typing error."""

DEVICES = ("auto", "cpu", "cuda")
"""What a user may name as the device to train on."""

MOST_SEED = 2**32
"""The highest seed."""

MOST_SEEDS = 1_000
"""Most seeds of one call or plan."""


def _setting(
    default: Knob,
    meaning: str,
    *,
    unit: str = "",
    low: float = 0,
    high: float = 0,
    choices: tuple[str, ...] = (),
) -> Any:
    """Declare one field of `Recipe` with its meaning, unit and allowed range (both ends included)."""
    metadata = {"meaning": meaning, "unit": unit, "low": low, "high": high, "choices": choices}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of a training. Each field has a default, a meaning, a unit and an allowed range.

    ``python -m harness list`` prints them as a table. The defaults are plain SGD at learning rate
    0.01, momentum 0.9, batch 128, 19 epochs, no augmentation.

    Raises:
        UsageError: a value has the wrong type, is out of range, or contradicts another field.
    """

    epochs: int = _setting(19, "passes over the training set", unit="epochs", low=1, high=LONGEST)
    batch_size: int = _setting(128, "images a step; the last, short batch is kept", unit="images", low=1, high=60_000)
    optimizer: str = _setting("sgd", "update rule", choices=("sgd", "adamw"))
    lr: float = _setting(0.01, "learning rate at its highest", low=1e-7, high=100)
    momentum: float = _setting(0.9, "momentum of SGD, first beta of AdamW", low=0, high=0.9999)
    nesterov: bool = _setting(False, "Nesterov momentum (SGD only)")
    weight_decay: float = _setting(0.0, "L2 (SGD) or decoupled (AdamW) decay, never on norms and biases", low=0, high=1)
    schedule: str = _setting(
        "constant",
        "shape of the learning rate after warm-up; one-cycle leaves momentum alone",
        choices=("constant", "step", "one-cycle", "cosine", "linear"),
    )
    warmup_epochs: float = _setting(
        0.0, "linear rise from 0; for one-cycle, its rising part", unit="epochs", low=0, high=LONGEST
    )
    step_epochs: int = _setting(10, "epochs between drops (step schedule)", unit="epochs", low=1, high=LONGEST)
    step_gamma: float = _setting(0.1, "factor of each drop (step schedule)", low=0, high=1)
    label_smoothing: float = _setting(0.0, "share of the target spread over all classes", low=0, high=0.99)
    ema: float = _setting(
        0.0, "decay per step of the averaged network that is then scored; 0 is off", low=0, high=0.99999
    )
    rotation: float = _setting(0.0, "rotation, uniform in +- this, bilinear", unit="degrees", low=0, high=180)
    translate: float = _setting(
        0.0, "shift, uniform in +- this; torchvision counts whole widths", unit="half widths", low=0, high=1
    )
    scale: float = _setting(0.0, "relative change of size, uniform in +- this", low=0, high=0.9)
    shear: float = _setting(0.0, "horizontal shear, uniform in +- this", unit="tangent", low=0, high=1)
    zoom_p: float = _setting(0.0, "probability of a centre crop resized to full size", low=0, high=1)
    zoom_crop: int = _setting(22, "side of that crop", unit="pixels", low=4, high=28)
    augment_fade: int = _setting(
        0, "last epochs over which augmentation falls to nothing", unit="epochs", low=0, high=LONGEST
    )

    def __post_init__(self) -> None:
        for declared in fields(self):
            value = getattr(self, declared.name)
            _check_setting(declared.name, value, str(declared.type), declared.metadata)
            if declared.type == "float":  # 1 and 1.0 must give the same row id and text
                object.__setattr__(self, declared.name, float(value))
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise UsageError(
                "nesterov needs the sgd optimizer with momentum above 0.",
                hint="Set optimizer='sgd' and momentum=0.9, or leave nesterov out.",
            )
        for name in ("warmup_epochs", "augment_fade"):
            if getattr(self, name) > self.epochs:
                raise UsageError(
                    f"{name} {getattr(self, name):g} is longer than the {self.epochs} epochs of training.",
                    hint=f"Lower {name} or raise epochs.",
                )

    @property
    def augments(self) -> bool:
        """Whether any augmentation is on."""
        return any((self.rotation, self.translate, self.scale, self.shear, self.zoom_p))

    @property
    def idle(self) -> list[str]:
        """Names of fields that were set but have no effect with the other settings."""
        in_use = {
            "step_epochs": self.schedule == "step",
            "step_gamma": self.schedule == "step",
            "zoom_crop": self.zoom_p > 0,
            "augment_fade": self.augments,
        }
        default = {declared.name: declared.default for declared in fields(self)}
        return [name for name, used in in_use.items() if not used and getattr(self, name) != default[name]]


RECIPE_FIELDS: tuple[str, ...] = tuple(declared.name for declared in fields(Recipe))


def span(allowed: Mapping[str, Any]) -> str:
    """Return a setting's allowed range as text; for epochs, the part of it that is within the budget."""
    high = min(allowed["high"], BUDGET.epochs) if allowed["unit"] == "epochs" else allowed["high"]
    return f"{allowed['low']:g} to {high:g}"


def _check_setting(name: str, value: object, type_name: str, allowed: Mapping[str, Any]) -> None:
    kinds: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}
    wanted = kinds[type_name]
    unit = f" {allowed['unit']}" if allowed["unit"] else ""
    if allowed["choices"]:
        if value not in allowed["choices"]:
            raise UsageError(
                f"{name} cannot be {reprlib.repr(value)}.",
                allowed=f"Allowed: {', '.join(allowed['choices'])}.",
                hint=did_you_mean(str(value), allowed["choices"]),
            )
    elif not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        raise UsageError(
            f"{name} must be {type_name}, not {reprlib.repr(value)}.", allowed=f"{name}: {allowed['meaning']}."
        )
    elif not isinstance(value, (bool, str)) and not (allowed["low"] <= value <= allowed["high"]):
        # The comparison also refuses NaN.
        raise UsageError(f"{name} {reprlib.repr(value)} is out of range.", allowed=f"Allowed: {span(allowed)}{unit}.")


@dataclass(frozen=True)
class Architecture:
    """A plug-in file that fulfils the architecture contract.

    Attributes:
        name: the file's name without ``.py``.
        path: where it was read from, as the user typed it.
        source: the text of the file.
        sha256: SHA-256 of the text; identifies the architecture.
        summary: first line of its docstring.
        knobs: the keyword parameters of `build` with their defaults.
        recipe: the file's `RECIPE` applied over the defaults of `Recipe`.
    """

    name: str
    path: str
    source: str
    sha256: str
    summary: str
    knobs: Mapping[str, Knob]
    recipe: Recipe


@dataclass(frozen=True)
class Study:
    """A plug-in file that fulfils the study contract: the search space of one architecture.

    Attributes:
        name, path, source, sha256, summary: as for an `Architecture`.
        architecture: the one it searches.
        sampler: the Optuna sampler that proposes settings: ``tpe`` or ``random``.
        pruner: the Optuna pruner that stops unpromising trials: ``median`` or ``none``.
    """

    name: str
    path: str
    source: str
    sha256: str
    summary: str
    architecture: Architecture
    sampler: str
    pruner: str


Precision = Literal["float32", "bfloat16"]

Execution = Literal["eager", "compiled", "captured"]


@dataclass(frozen=True)
class ComputeMode:
    """How training steps are computed. It is not a setting of the experiment, but rounding depends on it.

    Attributes:
        precision: ``float32`` or ``bfloat16``, for the network's forward and backward pass. Weights, their
            updates, the loss and all scoring are always float32.
        channels_last: whether all channels of one pixel are adjacent in memory.
        padded: whether channels of zeros are added to fill whole vectors, where few are needed.
        execution: ``eager``, one operator after the other; ``compiled``, by torch.compile; or ``captured``,
            as one CUDA graph that is replayed.
    """

    precision: Precision = "float32"
    channels_last: bool = False
    padded: bool = False
    execution: Execution = "eager"

    @property
    def label(self) -> str:
        """The mode as shown to the user, such as ``bfloat16, compiled``; it and the device imply the memory layout."""
        return self.precision if self.execution == "eager" else f"{self.precision}, {self.execution}"


REFERENCE = ComputeMode()
"""Eager float32: every other compute mode is compared with it."""


@dataclass(frozen=True)
class Job:
    """One training as plain data: enough to run it on any machine and to decide which results may be averaged.

    `network`, `knobs`, `recipe`, `dataset_digest` and `protocol` identify the leaderboard row; `seed` is one
    sample of it. `held_out` is ``test``, or ``validation`` in a study, which never loads the test set. A
    `plain` job is computed in the `REFERENCE` mode, eager float32: slow, and what the fast modes are compared with.

    Attributes:
        source: text of the plug-in, and `sha256` its hash.
        submission: the network as a document, which is what is trained; empty for a trial, whose process makes it.
        network: hash of the submission's graphs and start; empty without one.
        isolation: how the process that executed the file was confined: ``full``, ``process`` or ``none``.
    """

    name: str
    path: str
    source: str
    sha256: str
    knobs: Mapping[str, Knob]
    default_knobs: Mapping[str, Knob]
    recipe: Recipe
    dataset: str
    dataset_digest: str
    seed: int
    device: str
    held_out: HeldOut = "test"
    plain: bool = False
    protocol: int = BUDGET.protocol
    submission: str = ""
    network: str = ""
    isolation: str = "none"


@dataclass(frozen=True)
class Group:
    """The runs of one command, one per seed, which MLflow shows under one parent run."""

    id: str
    size: int
