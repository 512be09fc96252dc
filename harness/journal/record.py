"""A run as read from its journal: the events as written, and a finished run with types.

`Record` holds any journal, also of a running or failed run. `FinishedRun` is what leaderboard, MLflow and pages are
made from: every fact has a name and a type.
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


MOST_AUTHOR = 80
"""Most characters of an author's name."""


MOST_STATE = 200
"""Most characters of what is said of a seed that was not handed over."""


class IllegalRecipe(ValueError):
    """A recorded recipe holds a value that is not allowed; the message says which."""


def typed(kind: type[Kind], stored: Mapping[str, Any], **others: Any) -> Kind:
    """Make a dataclass from stored values; `others` replace some of them, and keys that are no field are ignored.

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
    """What the bits of a run depend on besides its job.

    Attributes:
        device: its name for display.
        threads: number of threads that torch used.
        torch, harness: versions.
        git: commit of the checkout; empty outside one.
        mode: how steps were computed; None in a record from before modes were recorded.
        unrepeatable: operators that may give different bits each time.
    """

    device: str
    threads: int = 0
    torch: str = ""
    harness: str = ""
    git: str = ""
    mode: ComputeMode | None = None
    unrepeatable: tuple[str, ...] = ()


@dataclass(frozen=True)
class Carried:
    """That a run of an older protocol counts under a newer one: its graph, count and start are equal there.

    Attributes:
        network: hash of the submission that its file gives now.
        before: the protocol that it was trained under.
        protocol: the one that it counts under.
        time: when it was carried over, in milliseconds since 1970.
    """

    network: str
    before: int
    protocol: int
    time: int


@dataclass(frozen=True)
class RunStart:
    """What was known of a run before its first step.

    Attributes:
        time: milliseconds since 1970.
        job: without the plug-in's text, which is a file of its own.
        group: the seeds that were started together, if there were several.
        is_benchmark: whether the budget's target accuracy applies.
        parameters: number of stored numbers of the network.
        author: who says to have trained it, or empty; a claim that nothing here proves.
        stored: the event as written.
        carried: of a run that was carried over from an older protocol, whose job then has network and protocol of it.
    """

    time: int
    job: Job
    group: Group | None
    is_benchmark: bool
    parameters: int
    environment: Environment
    author: str
    stored: Event = field(repr=False)
    carried: Carried | None = None

    @classmethod
    def of(cls, stored: Event, carried: Carried | None = None) -> RunStart:
        """Read the event ``started``.

        Raises:
            KeyError, TypeError, ValueError: a value is missing or has the wrong type.
        """
        raw, environment, group = stored["job"], stored["environment"], stored["group"]
        try:
            recipe = Recipe(**{name: raw["recipe"][name] for name in RECIPE_FIELDS})
        except HarnessError as error:
            raise IllegalRecipe(error.message) from error
        how = environment.get("arithmetic")
        now = {"network": carried.network, "protocol": carried.protocol} if carried else {}
        return cls(
            time=stored["time"],
            job=typed(Job, raw, source="", recipe=recipe, **now),
            group=Group(**group) if group else None,
            is_benchmark=stored["is_benchmark"],
            parameters=stored["parameters"],
            environment=typed(
                Environment,
                environment,
                mode=ComputeMode(**how) if how else None,
                unrepeatable=tuple(environment.get("unrepeatable", ())),
            ),
            author=stored.get("author", ""),
            stored=stored,
            carried=carried,
        )

    @cached_property
    def ledger(self) -> tuple[Entry, ...]:
        """All stored numbers of the network, one entry a tensor."""
        return tuple(typed(Entry, entry) for entry in self.stored["ledger"])

    @cached_property
    def model(self) -> ModelSummary:
        """The description of the network."""
        stored = self.stored["anatomy"]
        return typed(ModelSummary, stored, layers=tuple(typed(Layer, layer) for layer in stored["layers"]))

    @property
    def mode(self) -> ComputeMode:
        """How steps are computed; in a record from before modes, one operator at a time in the recipe's precision."""
        before = ComputeMode(self.stored["job"]["recipe"].get("precision", "float32"))
        return self.environment.mode or before

    @property
    def device(self) -> str:
        """The device and the compute mode, for display."""
        return f"{self.environment.device}, {self.mode.label}"

    @property
    def title(self) -> str:
        """The architecture's name and the knobs that differ from their defaults: ``s6_gap width=12``."""
        default = self.job.default_knobs
        changed = {name: value for name, value in self.job.knobs.items() if value != default[name]}
        return " ".join([self.job.name, *settings_texts(changed)])

    @property
    def name(self) -> str:
        """The run's display name: ``s6_gap width=12 seed 0``."""
        return f"{self.title} seed {self.job.seed}"


@dataclass(frozen=True)
class Origin:
    """Where an imported run comes from; nothing of such a run is ever executed.

    Attributes:
        place: the file or the server.
        trials: number of trials that were spent on its settings there, or None if unknown.
        held_back: seeds of its row that were begun there and not handed over, each with what became of them; None if
            the file does not say.
        lost: networks that were begun there and have no row in the file: title, seed, and what became of it.
    """

    place: str
    trials: int | None
    held_back: tuple[tuple[int, str], ...] | None = None
    lost: tuple[tuple[str, int, str], ...] = ()


@dataclass(frozen=True)
class Record:
    """A journal as read: the event of the start, of each epoch, and of the end.

    Attributes:
        ended: the last event if it is ``finished`` or ``failed``, else None.
        origin: of an imported run.
        process: ``host`` and ``pid`` of the process that trained it last.
    """

    run_id: str
    started: Event
    epochs: list[Event]
    ended: Event | None
    origin: Origin | None = None
    process: Event = field(default_factory=dict)
    carried: Carried | None = None

    @cached_property
    def start(self) -> RunStart:
        """The start of the run, with types.

        Raises:
            KeyError, TypeError, ValueError: the journal is damaged.
        """
        return RunStart.of(self.started, self.carried)

    @property
    def job(self) -> Job:
        """The job, without the plug-in's text."""
        return self.start.job

    @property
    def state(self) -> str:
        """One of running, finished, failed, diverged, out of memory, interrupted, withdrawn."""
        if self.ended is None:
            return "running"
        return str(self.ended.get("state", "finished"))

    @property
    def reason(self) -> str:
        """Why the run failed or was withdrawn; empty if neither."""
        return str((self.ended or {}).get("reason", ""))

    @property
    def ended_at(self) -> int:
        """The time of the end, in milliseconds since 1970."""
        return int((self.ended or {})["time"])

    def typed_epochs(self) -> tuple[Epoch, ...]:
        """Return the epochs, with types.

        Raises:
            TypeError: the journal is damaged.
        """
        return tuple(typed(Epoch, event) for event in self.epochs)


@dataclass(frozen=True)
class RunResult:
    """The result of a finished run: the fields of `harness.events.Result` that are not arrays.

    Attributes:
        time: time of the end, in milliseconds since 1970.
        wall_seconds: None in a record from before it was recorded.
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
        """Read a record whose state is ``finished``.

        Raises:
            KeyError, TypeError, ValueError: the journal is damaged, or the run is not finished.
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
    def accuracies(self) -> list[float]:
        """The held-out accuracy after each epoch, as fractions of 1."""
        return [epoch.held_out_accuracy or 0.0 for epoch in self.epochs]
