"""One job, trained and recorded: the one path that `run` takes, and every other command that trains.

`train` turns a job into events and touches no file but the data. `record` writes the events to a
journal, lets the tracker know, and hands them on. Whoever asks for the next event decides whether
there is one: stopping is a plain ``break``.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import secrets
import shlex
import socket
import subprocess
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import filelock
import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from harness import __version__, arithmetic, audit, data, inspection, page, plugins, records, supervision, training
from harness.anatomy import Anatomy
from harness.capture import Uncapturable
from harness.errors import (
    BudgetError,
    ClusterLost,
    CrashedError,
    DataError,
    DivergedError,
    HarnessError,
    OutOfMemory,
    UsageError,
    did_you_mean,
    ran_out_of_memory,
)
from harness.evaluation import COMPILED_BATCH, class_accuracy, confusion, hardest, predict, score, softmax
from harness.graph import over_the_same_tensors
from harness.journal import DAMAGE, Journal, Outcome, Record, all_journals, journals
from harness.layout import Choice, arrange_scoring, choose_suitable, numbers, unrepeatable
from harness.ledger import Ledger
from harness.spec import (
    BUDGET,
    PLAIN,
    RECIPE_FIELDS,
    Architecture,
    Arithmetic,
    Checkpoint,
    Epoch,
    HeldOut,
    Job,
    Knob,
    Recipe,
    Result,
    Trial,
    TrialState,
)
from harness.tracking import Tracker

FEW = {"cpu": 37, "cuda": 613}
"""Images asked at a time when all held-out images are asked once more; far from `evaluation.BATCH`."""

ASKED_IN_PAIRS = {"cpu": 1_000, "cuda": 200}
"""Of these, as many are asked two at a time as well, which is slow."""

LOOK_SECONDS = 0.002
"""How long a trial that waits for its audit lets the others wait, each time it looks."""

HARDEST = 25
"""How many of the most confidently wrong images a run keeps."""


@dataclass(frozen=True)
class Started:
    """What is known of a run before its first step.

    Attributes:
        environment: of the process that trains: device, threads, versions.
        untrained: share of the untrained network in the average that is scored after the last step.
        slow_because: why it is not computed as the rule says for this machine; empty where it is or goes on.
        unrepeatable: operators of the network that may give other bits each time on this device.
        epochs_before: that it was trained before it was interrupted.
        run_id: its journal's, once it has one.
    """

    ledger: Ledger
    anatomy: Anatomy
    device_name: str
    arithmetic: Arithmetic
    is_benchmark: bool
    environment: Mapping[str, Any]
    untrained: float = 0.0
    slow_because: str = ""
    unrepeatable: tuple[str, ...] = ()
    epochs_before: int = 0
    run_id: str = ""


@dataclass(frozen=True)
class Group:
    """Runs started together, one a seed, that MLflow shows under one parent."""

    id: str
    size: int


Item = TypeVar("Item")

Event = Started | Epoch | Result
"""What a run yields, and None where the work of an epoch is queued: somebody else may have a turn."""


Trainer = Callable[[Job], Iterator[Event | None]]
"""Trains a job somewhere, from the start, and yields what `train` would."""


@dataclass(frozen=True)
class Progress:
    """How far a run came that was interrupted.

    Attributes:
        checkpoint: what it goes on from.
        epochs: all that are recorded; of one after the checkpoint the weights are lost.
        arithmetic: how it was computed, and goes on to be.
    """

    checkpoint: Checkpoint
    epochs: tuple[Epoch, ...]
    arithmetic: Arithmetic


def choose_device(name: str) -> str:
    """Resolve ``auto`` to ``cuda`` where there is a GPU that this torch has code for, else ``cpu``.

    Raises:
        UsageError: ``cuda`` was asked for and there is none.
    """
    if name == "cpu" or (name == "auto" and (not torch.cuda.is_available() or gpu_without_code())):
        return "cpu"
    if not torch.cuda.is_available():
        raise UsageError("There is no CUDA device here.", mend="Use --device cpu or auto.")
    if missing := gpu_without_code():
        raise UsageError(
            f"{missing}.",
            legal=f"It has code for {', '.join(torch.cuda.get_arch_list())}.",
            mend="Use --device cpu, or install a torch that was built for this GPU.",
        )
    return "cuda"


def gpu_without_code() -> str:
    """Say which GPU is here that this torch has no code for; empty where there is none such."""
    if not torch.cuda.is_available() or _has_code_for(torch.cuda.get_device_capability(), torch.cuda.get_arch_list()):
        return ""
    major, minor = torch.cuda.get_device_capability()
    return f"torch {torch.__version__} has no code for {torch.cuda.get_device_name()} (sm_{major}{minor})"


def _has_code_for(capability: tuple[int, int], built_for: Sequence[str]) -> bool:
    """Whether a GPU runs what torch was built for: code of its own generation up to its own version, or older PTX."""
    for name in built_for:
        kind, _, number = name.partition("_")
        if kind in ("sm", "compute"):  # of AMD's it is none
            number = number.rstrip("af")
            built = (int(number[:-1]), int(number[-1]))
            if built <= capability and (kind == "compute" or built[0] == capability[0]):
                return True
    return False


def jobs(
    architecture: Architecture,
    knobs: Mapping[str, Knob],
    recipe: Recipe,
    dataset: data.Dataset,
    seeds: range,
    device: str,
    held_out: HeldOut = "test",
    plain: bool = False,
) -> list[Job]:
    """Make one job a seed."""
    first = Job(
        name=architecture.name,
        path=architecture.path,
        source=architecture.source,
        sha256=architecture.sha256,
        knobs=dict(knobs),
        default_knobs=dict(architecture.knobs),
        recipe=recipe,
        dataset=dataset.name,
        dataset_digest=dataset.digest,
        seed=seeds[0],
        device=device,
        held_out=held_out,
        plain=plain,
    )
    return [replace(first, seed=seed) for seed in seeds]


def new_group(size: int) -> Group | None:
    """Return a group for `size` runs, or None for a single one."""
    return Group(secrets.token_hex(8), size) if size > 1 else None


def train(job: Job, progress: Progress | None = None, keep: bool = False) -> Generator[Event | Checkpoint | None]:
    """Train one job, yielding `Started`, for each epoch None and then an `Epoch`, and a `Result`.

    What is trained and scored are the two exported graphs that the audit counted, not the plug-in's
    Python. The score is the pass over the held-out images after the last epoch.

    Args:
        progress: of the same job, to go on from.
        keep: yield a `Checkpoint` before every `Epoch` but the last.

    Raises:
        Refusal: the plug-in is not legal, or over the budget.
        DataError: the dataset is not the one the job names.
        DivergedError: a loss became infinite or not a number.
        CrashedError: it cannot go on with `progress`, as torch.compile turns out to get its network wrong.
    """
    arithmetic.settle(job.device)
    device = torch.device(job.device)
    dataset = data.load(job.dataset, job.held_out).to(device)
    if dataset.digest != job.dataset_digest:
        raise DataError(f"{job.dataset} here is another one ({dataset.digest}) than the job's ({job.dataset_digest}).")
    refuse_single_image(len(dataset.train.labels), job.recipe)
    built = inspection.build(job)
    audit.enforce(built.audit.ledger, job.recipe, BUDGET)
    graphs, reference = built.audit.graphs(built.network, device), built.reference.own_graphs(device)
    images = len(dataset.train.labels) * job.recipe.epochs
    choice = Choice(progress.arithmetic) if progress else choose_arithmetic(job, images, reference)
    begun = begin(job, dataset, graphs, reference, choice, progress.checkpoint if progress else None, keep)
    epochs = [*progress.epochs[: progress.checkpoint.epoch]] if progress else []
    yield Started(
        built.audit.ledger,
        built.anatomy,
        device_name(device),
        begun.arithmetic,
        dataset.is_benchmark,
        _environment(device_name(device)),
        _untrained(job.recipe, len(dataset.train.labels)),
        begun.slow_because,
        unrepeatable(begun.arithmetic, reference.train) if job.device == "cuda" else (),
        len(epochs),
    )
    yield from _scored_epochs(job, dataset, graphs.evaluation, begun, epochs)


def _scored_epochs(
    job: Job, dataset: data.Dataset, graph: GraphModule, begun: Begun, epochs: list[Epoch]
) -> Iterator[Event | Checkpoint | None]:
    """Train, score after each epoch, and add it to those that there are already; last, the result.

    Args:
        graph: what is scored, over the tensors that are trained.
    """
    if begun.average:
        graph.load_state_dict(begun.average.state, assign=True)
    numbers = graph.state_dict(keep_vars=True)  # without what scoring makes of them
    scored = arrange_scoring(graph, begun.arithmetic)
    batch = COMPILED_BATCH if begun.arithmetic.execution == "compiled" else None
    checkpoint: Checkpoint | None = None
    scoring = 0.0
    for event in begun.epochs:
        if event is None:
            yield None
        elif isinstance(event, Checkpoint):
            checkpoint = event  # handed on with its epoch: one without the other is worth nothing
        else:
            started = time.perf_counter()
            scored.refresh()
            logits = predict(scored, dataset, dataset.held_out, batch)
            epochs.append(_scored(event, logits, dataset))
            scoring += time.perf_counter() - started
            if checkpoint:
                yield checkpoint
                checkpoint = None
            yield epochs[-1]
    _ask_again(scored, logits, dataset, job.path)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in numbers.items()}
    yield _result(epochs, scoring, logits, dataset, weights)


@dataclass(frozen=True)
class Begun:
    """A training before its first epoch.

    Attributes:
        arithmetic: how its steps are computed.
        slow_because: why that is not as the rule says; empty where it is.
        average: of its weights, if it has one.
        epochs: its epochs.
    """

    arithmetic: Arithmetic
    slow_because: str
    average: training.Average | None
    epochs: Iterator[Epoch | Checkpoint | None]


def begin(
    job: Job,
    dataset: data.Dataset,
    graphs: audit.Graphs,
    reference: audit.Graphs,
    choice: Choice,
    checkpoint: Checkpoint | None = None,
    keep: bool = False,
) -> Begun:
    """Make ready to train the audited network, in up to a minute where it is compiled for the first time.

    Code that torch.compile fails at or gets wrong is not used, and what cannot be captured is not: the network is then
    trained one operator after the other.

    Args:
        reference: the graphs with numbers that the job's seed has no part in, by which compiled code is judged.

    Raises:
        CrashedError: `checkpoint` comes from a training that was compiled, or captured.
    """
    average = training.Average(graphs.train, job.recipe.ema) if job.recipe.ema else None
    trained, used = over_the_same_tensors(graphs.train), choice.arithmetic
    try:
        epochs = training.fit(
            trained, dataset, job.recipe, job.seed, used, average, checkpoint, keep, numbers(reference.train)
        )
        return Begun(used, choice.because, average, epochs)
    except Uncapturable:
        because = "a CUDA graph cannot hold a step of this network"
    except training.Miscompiled as error:
        because = str(error)
    if checkpoint:
        raise CrashedError(
            f"Seed {job.seed} cannot go on as it began: {because}.",
            mend="Train it anew: the same command with --again.",
        )
    reasons = "; ".join(filter(None, (choice.because, because)))
    return begin(job, dataset, graphs, reference, Choice(replace(used, execution="eager"), reasons), keep=keep)


def _untrained(recipe: Recipe, images: int) -> float:
    steps = recipe.epochs * math.ceil(images / recipe.batch_size)
    return recipe.ema**steps if recipe.ema else 0.0


def choose_arithmetic(job: Job, images: int, reference: audit.Graphs) -> Choice:
    """Choose how a job's steps are computed on this machine: as the rule says, where that suits the network.

    Args:
        images: to train on, all epochs together.
        reference: the graphs with numbers that the job's seed has no part in.
    """
    if job.plain:
        return Choice(PLAIN)
    wanted = arithmetic.choose(job.device, images)
    return choose_suitable(wanted, reference.train, reference.evaluation, job.path)


def _ask_again(scored: Callable[[Tensor], Tensor], logits: Tensor, dataset: data.Dataset, path: str) -> None:
    """What was learned may have opened a gate to the rest of the batch that was shut when the network was audited."""
    audit.refuse_batch_dependence(scored, dataset.normalise(data.to_float(dataset.held_out.images[:12])), path)
    # A gate may open to real images alone: the very answers that are scored must come again in other company.
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(0)).to(logits.device)
    device = logits.device.type
    for batch, asked in ((FEW[device], order), (2, order[: ASKED_IN_PAIRS[device]])):
        again = predict(scored, dataset, dataset.held_out.at(asked), batch)
        audit.refuse_changed_classes(logits[asked], again, f"shuffled and {batch} at a time", path)


def refuse_single_image(count: int, recipe: Recipe) -> None:
    """Batch norm has no variance over one image: it would turn every weight into a not-a-number."""
    if count % recipe.batch_size == 1 or recipe.batch_size == 1:
        raise UsageError(
            f"batch_size {recipe.batch_size} leaves a batch of one image ({count:,} are trained on).",
            legal="Every batch holds two images or more.",
            mend=f"Use batch_size {recipe.batch_size + 1}.",
        )


def _scored(epoch: Epoch, logits: Tensor, dataset: data.Dataset) -> Epoch:
    held_out = score(logits, dataset.held_out.labels)
    if not math.isfinite(held_out.loss):
        raise DivergedError(
            f"Training diverged: the held-out loss after epoch {epoch.number} was {held_out.loss:g}.",
            legal=f"The training loss of that epoch was {epoch.train_loss:.4g}.",
            mend="Lower lr, or look for a log or division by zero in the network.",
        )
    return replace(epoch, held_out_loss=held_out.loss, held_out_accuracy=held_out.accuracy)


def _result(
    epochs: Sequence[Epoch],
    scoring: float,
    logits: Tensor,
    dataset: data.Dataset,
    weights: Mapping[str, Tensor],
) -> Result:
    last, answers, labels = epochs[-1], logits.cpu().numpy(), dataset.held_out.labels.cpu().numpy()
    curve = [epoch.held_out_accuracy for epoch in epochs if epoch.held_out_accuracy is not None]
    reached = [number for number, accuracy in enumerate(curve, 1) if accuracy >= BUDGET.accuracy]
    wrong = hardest(answers, labels, HARDEST)
    assert last.held_out_loss is not None
    return Result(
        accuracy=curve[-1],
        class_accuracy=tuple(class_accuracy(confusion(answers.argmax(1), labels)).tolist()),
        loss=last.held_out_loss,
        best_accuracy=max(curve),
        best_epoch=curve.index(max(curve)) + 1,
        epochs_to_target=reached[0] if reached and dataset.is_benchmark else None,
        seconds=scoring + sum(epoch.seconds for epoch in epochs),
        wall_seconds=scoring + sum(epoch.elapsed for epoch in epochs),
        logits=answers,
        labels=labels,
        images=dataset.held_out.images.cpu().numpy()[wrong],
        hardest=wrong,
        weights=weights,
    )


Attempt = tuple[int, Mapping[str, Knob], Job]
"""A trial to train: its number, what the study suggested, the job that became of it."""


Tell = Callable[[int, Epoch], None]
"""Takes the number of a trial and an epoch that it has finished."""


def attempt(
    asked: Sequence[Attempt], floor: Mapping[int, float], tell: Tell, audits: Path | None = None
) -> list[Trial]:
    """Train a study's trials, in turns; whatever goes wrong in one becomes its state and reason.

    Args:
        floor: by epoch, the accuracy below which a trial is stopped.
        tell: called after every epoch.
        audits: the folder where other processes leave the audits of trials; the others train meanwhile.

    Raises:
        DataError: this machine has not the images, which is not held against a trial.
    """
    trials = in_turns([_attempt(*one, floor, tell, audits) for one in asked], len(asked), asked[0][2].device)
    return [trial for _, trial in sorted(trials, key=lambda found: found[0])]


def _attempt(
    number: int, settings: Mapping[str, Knob], job: Job, floor: Mapping[int, float], tell: Tell, audits: Path | None
) -> Iterator[Trial | None]:
    """Yield None where others may have a turn, and last the trial."""
    started = _now()
    epochs: list[Epoch] = []
    parameters: int | None = None

    def ended(state: TrialState, reason: str = "") -> Trial:
        value = epochs[-1].held_out_accuracy if epochs else None
        return Trial(number, state, value, settings, tuple(epochs), parameters, reason, started, _now())

    try:
        if audits:
            while inspection.is_awaited(audits, job):
                time.sleep(LOOK_SECONDS)
                yield None
            inspection.take(audits, job)
        for event in train(job):
            supervision.gets_on()
            if event is None:
                yield None
            elif isinstance(event, Started):
                parameters = event.ledger.parameters
            elif isinstance(event, Epoch):
                epochs.append(event)
                tell(number, event)
                if event.number < job.recipe.epochs and _is_hopeless(epochs, floor):
                    yield ended("pruned", f"below the median of earlier trials after epoch {event.number}")
                    return
    except BudgetError as error:
        parameters = BUDGET.parameters + error.excess if error.rule == "parameters" else None
        yield ended("infeasible", error.wrong)
    except DivergedError as error:
        yield ended("diverged", error.wrong)
    except DataError:
        raise
    except HarnessError as error:
        yield ended("failed", " ".join(error.lines))
    except Exception as error:
        yield ended("failed", _broke_down(job, error).wrong)
    else:
        yield ended("complete")


def _is_hopeless(epochs: Sequence[Epoch], floor: Mapping[int, float]) -> bool:
    best = max(epoch.held_out_accuracy or 0.0 for epoch in epochs)
    return best < floor.get(epochs[-1].number, -math.inf)


def _now() -> int:
    return round(time.time() * 1000)


def in_turns(runs: Sequence[Iterator[Item | None]], at_once: int, device: str) -> Generator[tuple[int, Item]]:
    """Let `at_once` runs take turns, the next one beginning when one ends; hand on what each yields, with its place.

    A turn ends where a run yields None: its work is queued, and on a GPU it goes on while others have their
    turns, as each run has a stream of its own.

    Raises:
        Exception: the first that a run raised, when those that had begun by then are done; no other begins.
    """
    waiting, working = deque(enumerate(runs)), deque[tuple[int, Iterator[Item | None], _Context]]()
    broken: Exception | None = None
    with contextlib.ExitStack() as open_runs:
        for run in runs:
            if isinstance(run, Generator):
                open_runs.callback(run.close)
        while waiting or working:
            if waiting and len(working) < at_once:
                working.appendleft((*waiting.popleft(), _own_stream(device)))
            place, run, on_its_stream = working.popleft()
            found: list[Item] = []
            try:
                with on_its_stream():
                    for item in run:
                        if item is None:
                            working.append((place, run, on_its_stream))
                            break
                        found.append(item)
            except Exception as error:
                broken = broken or error
                waiting.clear()
            yield from ((place, item) for item in found)
    if broken:
        raise broken


_Context = Callable[[], contextlib.AbstractContextManager[object]]


def _own_stream(device: str) -> _Context:
    if device != "cuda":
        return contextlib.nullcontext
    stream = torch.cuda.Stream()
    return lambda: torch.cuda.stream(stream)


# --- what there is already --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Earlier:
    """What there is of some jobs, by seed: records of finished runs, journals of runs that can be gone on with."""

    finished: dict[int, Record]
    unfinished: dict[int, Journal]

    @property
    def group(self) -> Group | None:
        """The group that all of them belong to."""
        known = [*self.finished.values(), *(journal.read() for journal in self.unfinished.values())]
        groups = [record.started["group"] for record in known if record]
        return Group(**groups[0]) if groups and groups[0] and groups.count(groups[0]) == len(groups) else None


def earlier(jobs: Sequence[Job], trained_here: bool = True) -> Earlier:
    """Look among this machine's own runs for some that are these jobs, which differ by their seed alone.

    Args:
        trained_here: whether this machine trains them, and so can go on with those that were interrupted.
    """
    found = Earlier({}, {})
    by_seed = {job.seed: job for job in jobs}
    here = _surroundings(_environment(device_name(torch.device(jobs[0].device)))) if trained_here else None
    for journal in all_journals():
        with contextlib.suppress(*DAMAGE):
            record = journal.read()
            if record is None or record.origin or (job := by_seed.get(record.job["seed"])) is None:
                continue
            if _identity(record.job) != _identity(json.loads(json.dumps(asdict(job)))):
                continue
            if record.state == "finished":
                with contextlib.suppress(DataError):  # it does not count, and is trained again
                    found.finished[job.seed] = records.finished(journal)
            elif record.state == "interrupted" and _surroundings(record.started["environment"]) == here:
                found.unfinished[job.seed] = journal
    for seed in found.finished:
        found.unfinished.pop(seed, None)
    return found


def interrupted(run_id: str) -> tuple[Job, Journal]:
    """Return an interrupted run as a job for today's file and machine, and its journal.

    Raises:
        UsageError: there is no such run, it is not interrupted, or it would not go on bit for bit; with what differs.
    """
    run_id = Path(run_id).name  # the whole path does as well: it is what a run prints
    journal = Journal(journals() / run_id)
    known = [other.run_id for other in all_journals()]
    if run_id not in known:
        raise UsageError(
            f"There is no run '{run_id}' in {journals()}.",
            legal="Legal: the name of a folder there.",
            mend=did_you_mean(run_id, known),
        )
    try:
        return _interrupted(journal)
    except DAMAGE as error:
        raise DataError(
            f"{run_id} is damaged ({type(error).__name__}).", mend="The command that began it trains it anew."
        ) from error


def _interrupted(journal: Journal) -> tuple[Job, Journal]:
    run_id, record = journal.run_id, journal.read()
    if record is None:
        raise DataError(f"Nothing is recorded of {run_id}.", mend="The command that began it trains it anew.")
    _progress(journal, record)  # can it be read at all?
    if record.origin or record.state != "interrupted":
        state = "came from elsewhere" if record.origin else f"is {record.state}"
        raise UsageError(f"{run_id} {state}.", legal="Only a run that was interrupted can be gone on with.")
    if journal.checkpoint(len(record.epochs)) is None:
        why = "its checkpoints are damaged" if record.epochs else "it was interrupted before its first epoch was done"
        raise UsageError(f"{run_id} cannot be gone on with: {why}.", mend="The command that began it trains it anew.")
    architecture = plugins.load(record.job["path"])
    described = {**record.job, "source": architecture.source, "sha256": architecture.sha256}
    recipe = Recipe(**{name: record.job["recipe"][name] for name in RECIPE_FIELDS})
    digest = data.load(record.job["dataset"], record.job["held_out"]).digest
    job = Job(**{**described, "recipe": recipe, "dataset_digest": digest, "protocol": BUDGET.protocol})
    then = _identity(record.job) | _surroundings(record.started["environment"])
    now = _identity(json.loads(json.dumps(asdict(job)))) | _surroundings(
        _environment(device_name(torch.device(choose_device(job.device))))
    )
    differing = [
        "the file was edited" if name == "plug-in" else f"{name}: {then[name]} then, {now[name]} now"
        for name in then
        if then[name] != now[name]
    ]
    if differing:
        raise UsageError(
            f"{run_id} would not go on bit for bit here.",
            legal="; ".join(differing) + ".",
            mend=f"Put that back as it was, or train anew: {_command(job, architecture)} --again",
        )
    return job, journal


def _command(job: Job, architecture: Architecture) -> str:
    """Return what to type to train a job with the file as it is now."""
    given = {name: value for name, value in job.knobs.items() if value != architecture.knobs.get(name)}
    theirs = asdict(architecture.recipe)
    given |= {name: value for name, value in asdict(job.recipe).items() if value != theirs[name]}
    settings = "".join(f" --set {name}={page.value_text(value)}" for name, value in given.items())
    return f"python -m harness run {shlex.quote(job.path)} --dataset {job.dataset} --seed {job.seed}{settings}"


def _identity(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return what makes a job this one and no other, by the names people use."""
    names = ("knobs", "recipe", "dataset", "dataset_digest", "seed", "device", "held_out", "plain", "protocol")
    return {"plug-in": job["sha256"]} | {name.replace("_", " "): job.get(name) or None for name in names}


def _surroundings(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Return what else the bits of a run depend on; its arithmetic is kept."""
    names = ("threads", "torch", "harness")
    return {"machine": environment["device"]} | {name: environment[name] for name in names}


def record(
    job: Job,
    tracker: Tracker,
    group: Group | None = None,
    unfinished: Journal | None = None,
    or_anew: bool = True,
    trainer: Trainer | None = None,
) -> Generator[Event | None]:
    """Train `job`, writing every event to a journal of its own before handing it on.

    A journal begins with the first event, so a job that is refused leaves nothing behind. It is locked while
    it is written to.

    Args:
        unfinished: the journal of the same job, interrupted: it is gone on with, unless somebody else does.
        or_anew: then train the job from the start.
        trainer: who trains it, here unless told otherwise.

    Raises:
        UsageError: somebody else goes on with it, and it is not to be trained anew.
        HarnessError: as `train`; a plug-in that raises in training becomes a `CrashedError`.
    """
    with contextlib.ExitStack() as held:
        progress = _take_up(unfinished, held) if unfinished else None
        if unfinished and not progress and not or_anew:
            raise UsageError(f"Another process goes on with {unfinished.run_id}.", mend="Wait for it.")
        journal = unfinished if progress else None
        trained = trainer(job) if trainer else train(job, progress, keep=True)
        yield from _record(job, tracker, group, journal, progress, trained, held)


def _take_up(journal: Journal, held: contextlib.ExitStack) -> Progress | None:
    """Lock a journal, and return how far it came, or None if another process was faster."""
    try:
        held.enter_context(journal.lock())
    except filelock.Timeout:
        return None
    with contextlib.suppress(*DAMAGE):
        record = journal.read()
        if record and record.state == "interrupted":
            journal.cut_torn_line()
            return _progress(journal, record)
    return None


def _progress(journal: Journal, record: Record) -> Progress | None:
    names = {declared.name for declared in fields(Epoch)}
    epochs = tuple(Epoch(**{name: event[name] for name in names & event.keys()}) for event in record.epochs)
    checkpoint = journal.checkpoint(len(epochs))
    return Progress(checkpoint, epochs, record.arithmetic) if checkpoint else None


def _record(
    job: Job,
    tracker: Tracker,
    group: Group | None,
    journal: Journal | None,
    progress: Progress | None,
    trained: Iterator[Event | Checkpoint | None],
    held: contextlib.ExitStack,
) -> Generator[Event | None]:
    known = progress.epochs if progress else ()
    repeats = True
    try:
        for event in trained:
            supervision.gets_on()
            if isinstance(event, Checkpoint):
                assert journal
                journal.keep(event)
                continue
            if isinstance(event, Started):
                if journal:
                    journal.append("resumed", epoch=event.epochs_before, **_process())
                else:
                    journal = Journal.create(f"{job.name}-s{job.seed}")
                    held.enter_context(journal.lock())
                    journal.store(job.source)
                    journal.append("started", **_started(job, event, group))
                event = replace(event, run_id=journal.run_id)
                repeats = not event.unrepeatable
            elif isinstance(event, Epoch) and journal:
                if event.number > len(known):
                    journal.append("epoch", **asdict(event))
                elif repeats:
                    _refuse_other_bits(event, known[event.number - 1])
            elif isinstance(event, Result) and journal:
                _finish(journal, event)
            if journal and event:
                tracker.notice(journal)
            yield event
    except (KeyboardInterrupt, GeneratorExit):
        _fail(journal, tracker, "interrupted", "stopped before its last epoch")
        raise
    except HarnessError as error:
        _fail(journal, tracker, _state(error), error.wrong)
        raise
    except Exception as error:
        told = _broke_down(job, error)
        _fail(journal, tracker, _state(told), told.wrong)
        raise told from error


def _state(error: HarnessError) -> str:
    """Return the state of a run that ended with `error`."""
    # The command line was legal when the run began: what is wrong by now is a disk.
    if isinstance(error, (UsageError, ClusterLost)):
        return "interrupted"
    if isinstance(error, OutOfMemory):
        return "out of memory"
    return "diverged" if isinstance(error, DivergedError) else "failed"


@contextlib.contextmanager
def telling_breakdowns(job: Job) -> Iterator[None]:
    """Raise a job's error that has no message for the user as one that says where training broke down."""
    try:
        yield
    except HarnessError:
        raise
    except Exception as error:
        raise _broke_down(job, error) from error


def _broke_down(job: Job, error: Exception) -> CrashedError:
    if ran_out_of_memory(error):
        return OutOfMemory.of(job.path, error)
    return CrashedError(
        f"Training {job.name} broke down: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}",
        legal="At {0.filename}:{0.lineno}.".format(traceback.extract_tb(error.__traceback__)[-1]),
        mend="If the network is innocent, try --plain, and please report this with the plug-in.",
    )


def _refuse_other_bits(again: Epoch, known: Epoch) -> None:
    """An epoch that was recorded without its checkpoint is trained again, and must come out as it did."""
    if any(
        getattr(again, declared.name) != getattr(known, declared.name)
        for declared in fields(Epoch)
        if declared.name not in Epoch.CLOCKED
    ):
        raise CrashedError(
            f"Epoch {again.number} came out otherwise than before the interruption: "
            f"training loss {again.train_loss!r} instead of {known.train_loss!r}.",
            legal="A run goes on only where this machine gives the same bits again.",
            mend="Train it anew: the same command with --again.",
        )


def _finish(journal: Journal, result: Result) -> None:
    outcome = Outcome(
        answers=result.logits.argmax(1).astype(np.uint8),
        labels=result.labels,
        hardest=result.hardest,
        confidence=softmax(result.logits[result.hardest]).max(1),
        images=result.images,
    )
    journal.store_outcome(outcome, result.logits, result.weights)
    arrays = ("logits", "labels", "images", "hardest", "weights")
    names = [declared.name for declared in fields(Result) if declared.name not in arrays]
    journal.append("finished", **{name: getattr(result, name) for name in names})
    journal.drop_checkpoints()


def _fail(journal: Journal | None, tracker: Tracker, state: str, reason: str) -> None:
    record = journal.read() if journal else None
    if journal and record and not record.ended:  # a consumer may stop listening after the result, too
        with contextlib.suppress(UsageError):  # on a full disk nothing more can be said: the next start settles it
            journal.append("failed", state=state, reason=reason)
        if state != "interrupted":
            journal.drop_checkpoints()
        tracker.notice(journal)


def _started(job: Job, started: Started, group: Group | None) -> dict[str, object]:
    described = asdict(job)
    del described["source"]  # stands beside the journal as architecture.py
    return {
        "job": described,
        "group": asdict(group) if group else None,
        "is_benchmark": started.is_benchmark,
        "parameters": started.ledger.parameters,
        "ledger": [asdict(entry) for entry in started.ledger.entries],
        "anatomy": asdict(started.anatomy),
        "environment": {
            **started.environment,
            **_process(),
            "arithmetic": asdict(started.arithmetic),
            "unrepeatable": list(started.unrepeatable),
        },
    }


def _environment(device: str) -> dict[str, Any]:
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "machine": socket.gethostname(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "harness": __version__,
        "git": _git_commit(),
    }


def _process() -> dict[str, Any]:
    """Return who writes the journal, which is not always who trains."""
    return {"host": socket.gethostname(), "pid": os.getpid()}


def device_name(device: torch.device) -> str:
    """Return what a person calls the device, such as ``NVIDIA H200`` or ``AMD EPYC, 2 threads``."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    threads = torch.get_num_threads()
    return f"{model}, {threads} thread{'' if threads == 1 else 's'}"


def _git_commit() -> str:
    """Return the checkout's commit, with ``+`` if files differ from it; empty outside a checkout."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
