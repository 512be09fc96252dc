"""A run as its journal tells it: events as they were written, and a finished run with types.

`Record` holds what any journal says, of a run at work or broken too. `FinishedRun` is what the board, MLflow and pages
are made from: every fact by name and with its type.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, TypeVar

from harness.audit import Entry, Layer, ModelSummary
from harness.errors import HarnessError
from harness.events import Epoch
from harness.plugins import settings_texts
from harness.spec import RECIPE_FIELDS, ComputeMode, Group, Job, Recipe

Event = dict[str, Any]

Kind = TypeVar("Kind")


class IllegalRecipe(ValueError):
    """A recorded recipe with a value that is not legal; its text says which."""


def typed(kind: type[Kind], stored: Mapping[str, Any], **others: Any) -> Kind:
    """Make a dataclass of the stored values for its fields; `others` stand in for some of them.

    Raises:
        TypeError: a field without a default is not stored.
    """
    names = _field_names(kind)  # type: ignore[arg-type]
    return kind(**{name: value for name, value in {**stored, **others}.items() if name in names})


@functools.cache
def _field_names(kind: type) -> frozenset[str]:
    return frozenset(declared.name for declared in fields(kind))


@dataclass(frozen=True)
class Environment:
    """What the bits of a run depend on beside its job, and the process that trained it.

    Attributes:
        device: what a person calls it.
        threads: that torch computed with.
        torch, harness: versions.
        git: the checkout's commit; empty outside one.
        mode: how its steps were computed; None in a record from before there was a rule.
        unrepeatable: operators that may give other bits each time.
    """

    device: str
    threads: int = 0
    torch: str = ""
    harness: str = ""
    git: str = ""
    mode: ComputeMode | None = None
    unrepeatable: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunStart:
    """What was known of a run before its first step.

    Attributes:
        time: milliseconds since 1970.
        job: without the plug-in's text, which lies beside the journal.
        group: of several seeds that were started together.
        is_benchmark: whether the budget's target accuracy applies.
        parameters: stored numbers of the network.
        ledger: all of its stored numbers, line by line.
        model: its description.
    """

    time: int
    job: Job
    group: Group | None
    is_benchmark: bool
    parameters: int
    environment: Environment
    stored: Event = field(repr=False)

    @classmethod
    def of(cls, stored: Event) -> RunStart:
        """Give types to the event ``started``.

        Raises:
            KeyError, TypeError, ValueError: it lacks something, or holds what cannot be.
        """
        raw, environment, group = stored["job"], stored["environment"], stored["group"]
        try:
            recipe = Recipe(**{name: raw["recipe"][name] for name in RECIPE_FIELDS})
        except HarnessError as error:
            raise IllegalRecipe(error.message) from error
        how = environment.get("arithmetic")
        return cls(
            time=stored["time"],
            job=typed(Job, raw, source="", recipe=recipe),
            group=Group(**group) if group else None,
            is_benchmark=stored["is_benchmark"],
            parameters=stored["parameters"],
            environment=typed(
                Environment,
                environment,
                mode=ComputeMode(**how) if how else None,
                unrepeatable=tuple(environment.get("unrepeatable", ())),
            ),
            stored=stored,
        )

    @cached_property
    def ledger(self) -> tuple[Entry, ...]:
        """Every stored number of the network, line by line."""
        return tuple(typed(Entry, entry) for entry in self.stored["ledger"])

    @cached_property
    def model(self) -> ModelSummary:
        """The network described."""
        stored = self.stored["anatomy"]
        return typed(ModelSummary, stored, layers=tuple(typed(Layer, layer) for layer in stored["layers"]))

    @property
    def mode(self) -> ComputeMode:
        """How steps are computed; in a record from before there was a rule, plainly in the recipe's precision."""
        before = ComputeMode(self.stored["job"]["recipe"].get("precision", "float32"))
        return self.environment.mode or before

    @property
    def device(self) -> str:
        """What a person calls the device and the way it was used."""
        return f"{self.environment.device}, {self.mode.label}"

    @property
    def title(self) -> str:
        """The architecture's name and those knobs that are not at their default: ``s6_gap width=12``."""
        default = self.job.default_knobs
        changed = {name: value for name, value in self.job.knobs.items() if value != default[name]}
        return " ".join([self.job.name, *settings_texts(changed)])

    @property
    def name(self) -> str:
        """What a person looks for: ``s6_gap width=12 seed 0``."""
        return f"{self.title} seed {self.job.seed}"


@dataclass(frozen=True)
class Origin:
    """Where an imported run comes from; nothing in such a run is ever executed.

    Attributes:
        place: the file or the server.
        trials: how many were spent on its settings there, or None.
    """

    place: str
    trials: int | None


@dataclass(frozen=True)
class Record:
    """A journal as read: what was written when the run started, after each epoch, and when it ended.

    Attributes:
        process: the ``host`` and the ``pid`` of the process that trained it last.
    """

    run_id: str
    started: Event
    epochs: list[Event]
    ended: Event | None
    origin: Origin | None = None
    process: Event = field(default_factory=dict)

    @cached_property
    def start(self) -> RunStart:
        """What was written when it started, with types.

        Raises:
            KeyError, TypeError, ValueError: the journal is damaged.
        """
        return RunStart.of(self.started)

    @property
    def job(self) -> Job:
        """The job, without the plug-in's text."""
        return self.start.job

    @property
    def state(self) -> str:
        """One of running, finished, failed, diverged, out of memory, interrupted."""
        if self.ended is None:
            return "running"
        return str(self.ended.get("state", "finished"))

    @property
    def reason(self) -> str:
        """Why it ended unfinished; empty otherwise."""
        return str((self.ended or {}).get("reason", ""))

    @property
    def ended_at(self) -> int:
        """When it ended, milliseconds since 1970."""
        return int((self.ended or {})["time"])

    def typed_epochs(self) -> tuple[Epoch, ...]:
        """Return its epochs.

        Raises:
            TypeError: the journal is damaged.
        """
        return tuple(typed(Epoch, event) for event in self.epochs)


@dataclass(frozen=True)
class RunResult:
    """What a finished run came to: the fields of `harness.events.Result` that are no arrays.

    Attributes:
        time: at which it finished, milliseconds since 1970.
        wall_seconds: None in a record from before it was kept.
    """

    time: int
    accuracy: float
    class_accuracy: tuple[float, ...]
    loss: float
    best_accuracy: float
    best_epoch: int
    epochs_to_target: int | None
    seconds: float
    wall_seconds: float | None = None


@dataclass(frozen=True)
class FinishedRun:
    """A finished run.

    Attributes:
        origin: of an imported run.
    """

    run_id: str
    start: RunStart
    epochs: tuple[Epoch, ...]
    result: RunResult
    origin: Origin | None = None

    @classmethod
    def of(cls, record: Record) -> FinishedRun:
        """Give types to a record whose state is ``finished``.

        Raises:
            KeyError, TypeError, ValueError: the journal is damaged.
        """
        if record.ended is None or record.state != "finished":
            raise ValueError(record.state)
        result = typed(RunResult, record.ended, class_accuracy=tuple(record.ended["class_accuracy"]))
        return cls(record.run_id, record.start, record.typed_epochs(), result, record.origin)

    @property
    def job(self) -> Job:
        """The job, without the plug-in's text."""
        return self.start.job

    @property
    def curve(self) -> list[float]:
        """The held-out accuracy after each epoch."""
        return [epoch.held_out_accuracy or 0.0 for epoch in self.epochs]
