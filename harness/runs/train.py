"""Trains one job and yields its events: the one path of every command that trains.

`train` reads the data and writes no file; `harness.runs.record` writes the events to a journal. Both are generators, so
the caller stops a training by not asking for the next event.
"""

from __future__ import annotations

import contextlib
import math
import time
import traceback
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx import GraphModule

from harness import audit, data, training
from harness.audit import Ledger, ModelSummary, over_the_same_tensors
from harness.errors import CrashedError, DataError, HarnessError, OutOfMemory, ran_out_of_memory
from harness.events import Checkpoint, Epoch, Result
from harness.runs.build import build
from harness.runs.device import device_name
from harness.runs.environment import describe_environment
from harness.runs.job import refuse_single_image
from harness.runs.score import recheck_predictions, result_of, scored_epoch
from harness.spec import BUDGET, REFERENCE, ComputeMode, Job, Recipe
from harness.training import (
    COMPILED_BATCH,
    Choice,
    Uncapturable,
    accelerate_scoring,
    choose_compatible,
    compute,
    predict,
    tensors_by_name,
    unrepeatable,
)


@dataclass(frozen=True)
class Started:
    """What is known of a run before its first step.

    Attributes:
        ledger: all stored numbers of the network.
        model: the network's description.
        mode: how steps are computed.
        is_benchmark: whether the budget's target accuracy applies to the dataset.
        environment: device, threads and versions of the training process.
        untrained: share of the initial weights in the averaged weights that are scored after the last step.
        slow_because: why `mode` is slower than this machine's default; empty if it is not, or in a resumed run.
        unrepeatable: operators that may give different bits each time on this device.
        epochs_before: number of epochs trained before an interruption.
        run_id: id of the journal, once there is one.
    """

    ledger: Ledger
    model: ModelSummary
    device_name: str
    mode: ComputeMode
    is_benchmark: bool
    environment: Mapping[str, Any]
    untrained: float = 0.0
    slow_because: str = ""
    unrepeatable: tuple[str, ...] = ()
    epochs_before: int = 0
    run_id: str = ""


Event = Started | Epoch | Result
"""What a run yields; it also yields None when the work of an epoch is queued, so another run may have a turn."""


@dataclass(frozen=True)
class Progress:
    """The progress of an interrupted run.

    Attributes:
        checkpoint: the state it resumes from.
        epochs: all recorded epochs; those after the checkpoint are trained again.
        mode: how its steps were computed, which stays the same.
    """

    checkpoint: Checkpoint
    epochs: tuple[Epoch, ...]
    mode: ComputeMode


def train(job: Job, progress: Progress | None = None, keep: bool = False) -> Generator[Event | Checkpoint | None]:
    """Train one job; yield `Started`, then for each epoch None and an `Epoch`, and at the end a `Result`.

    The two exported graphs that the audit counted are trained and scored, not the plug-in's Python code. The score is
    the accuracy on the held-out images after the last epoch.

    Args:
        progress: of an interrupted run of this job, to resume from.
        keep: yield a `Checkpoint` before every `Epoch` but the last.

    Raises:
        Refusal: the plug-in breaks a rule, or its network is over the budget.
        DataError: the dataset here differs from the job's.
        DivergedError: a loss became infinite or not a number.
        CrashedError: the run cannot resume in its mode, as torch.compile or CUDA graphs fail on the network.
    """
    compute.set_deterministic(job.device)
    device = torch.device(job.device)
    dataset = data.load(job.dataset, job.held_out).to(device)
    if dataset.digest != job.dataset_digest:
        raise DataError(f"{job.dataset} here ({dataset.digest}) differs from the job's ({job.dataset_digest}).")
    refuse_single_image(len(dataset.train.labels), job.recipe)
    built = build(job)
    audit.enforce(built.audit.ledger, job.recipe, BUDGET)
    graphs, reference = built.audit.graphs(built.network, device), built.audit.own_graphs(device)
    audit.refuse_uneven_batches(graphs.train, job.recipe.batch_size, job.path, len(dataset.train.labels))
    counted = audit.sizes_of(tensors_by_name(graphs.train))
    images = len(dataset.train.labels) * job.recipe.epochs
    choice = Choice(progress.mode) if progress else choose_mode(job, images, reference)
    prior = progress.checkpoint if progress else None
    prepared = prepare_training(job, dataset, graphs, reference, choice, prior, keep)
    epochs = [*progress.epochs[: progress.checkpoint.epoch]] if progress else []
    yield Started(
        built.audit.ledger,
        built.model,
        device_name(device),
        prepared.mode,
        dataset.is_benchmark,
        describe_environment(device_name(device)),
        _untrained(job.recipe, len(dataset.train.labels)),
        prepared.slow_because,
        unrepeatable(prepared.mode, reference.train) if job.device == "cuda" else (),
        len(epochs),
    )
    for event in _scored_epochs(job, dataset, graphs.evaluation, prepared, epochs):
        if isinstance(event, Epoch):
            audit.refuse_grown_state(tensors_by_name(graphs.train), counted, job.path)
        yield event


def _scored_epochs(
    job: Job, dataset: data.Dataset, graph: GraphModule, prepared: PreparedTraining, epochs: list[Epoch]
) -> Iterator[Event | Checkpoint | None]:
    """Train, score each epoch and append it to `epochs`; at the end yield the result.

    Args:
        graph: the evaluation graph, which shares the trained tensors.
        epochs: those trained before an interruption.
    """
    if prepared.average:
        graph.load_state_dict(prepared.average.state, assign=True)
    tensors_by_name = graph.state_dict(keep_vars=True)  # before scoring replaces some of them
    scored = accelerate_scoring(graph, prepared.mode)
    batch = COMPILED_BATCH if prepared.mode.execution == "compiled" else None
    checkpoint: Checkpoint | None = None
    scoring = 0.0
    for event in prepared.epochs:
        if event is None:
            yield None
        elif isinstance(event, Checkpoint):
            checkpoint = event  # yielded with its epoch: a checkpoint needs its record
        else:
            started = time.perf_counter()
            scored.refresh()
            logits = predict(scored, dataset, dataset.held_out, batch)
            epochs.append(scored_epoch(event, logits, dataset))
            scoring += time.perf_counter() - started
            if checkpoint:
                yield checkpoint
                checkpoint = None
            yield epochs[-1]
    recheck_predictions(scored, logits, dataset, job.path)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors_by_name.items()}
    yield result_of(epochs, scoring, logits, dataset, weights)


@dataclass(frozen=True)
class PreparedTraining:
    """A training that is ready to start.

    Attributes:
        mode: how steps are computed.
        slow_because: why `mode` is slower than this machine's default; empty if it is not.
        average: the averaged weights, if the recipe has them.
        epochs: yields the epochs as they are trained.
    """

    mode: ComputeMode
    slow_because: str
    average: training.Average | None
    epochs: Iterator[Epoch | Checkpoint | None]


def prepare_training(
    job: Job,
    dataset: data.Dataset,
    graphs: audit.Graphs,
    reference: audit.Graphs,
    choice: Choice,
    checkpoint: Checkpoint | None = None,
    keep: bool = False,
) -> PreparedTraining:
    """Prepare the training of an audited network; a first compilation takes up to a minute.

    If torch.compile fails or gives wrong numbers, or a CUDA graph cannot capture a step, the network is trained one
    operator at a time.

    Args:
        graphs: hold the network of the job's seed.
        reference: hold the same network of a fixed seed, on which compiled code is checked.
        choice: the mode to use, and why it is slow.
        checkpoint: state to resume from.
        keep: yield checkpoints.

    Raises:
        CrashedError: `checkpoint` comes from a compiled or captured training that cannot be repeated here.
    """
    average = training.Average(graphs.train, job.recipe.ema) if job.recipe.ema else None
    trained, used = over_the_same_tensors(graphs.train), choice.mode
    try:
        epochs = training.fit(
            trained, dataset, job.recipe, job.seed, used, average, checkpoint, keep, tensors_by_name(reference.train)
        )
        return PreparedTraining(used, choice.because, average, epochs)
    except Uncapturable:
        because = "a CUDA graph cannot hold a step of this network"
    except training.Miscompiled as error:
        because = str(error)
    if checkpoint:
        raise CrashedError(
            f"Seed {job.seed} cannot resume in the mode it started with: {because}.",
            hint="Train it from the start: the same command with --retrain.",
        )
    reasons = "; ".join(filter(None, (choice.because, because)))
    return prepare_training(
        job, dataset, graphs, reference, Choice(replace(used, execution="eager"), reasons), keep=keep
    )


def _untrained(recipe: Recipe, images: int) -> float:
    steps = recipe.epochs * math.ceil(images / recipe.batch_size)
    return recipe.ema**steps if recipe.ema else 0.0


def choose_mode(job: Job, images: int, reference: audit.Graphs) -> Choice:
    """Choose how a job's steps are computed: in this machine's default mode if that works for the network.

    Args:
        images: number of training images, summed over all epochs.
        reference: graphs of the network of a fixed seed.
    """
    if job.plain:
        return Choice(REFERENCE)
    wanted = compute.mode_for_this_machine(job.device, images)
    return choose_compatible(wanted, reference.train, reference.evaluation, job.path)


@contextlib.contextmanager
def raising_crashes(job: Job) -> Iterator[None]:
    """Turn an unexpected error of a training into one that says where the training crashed."""
    try:
        yield
    except HarnessError:
        raise
    except Exception as error:
        raise crash_of(job, error) from error


def crash_of(job: Job, error: Exception) -> CrashedError:
    """Return the `CrashedError` for an unexpected error of a training."""
    if ran_out_of_memory(error):
        return OutOfMemory.of(job.path, error)
    return CrashedError(
        f"Training {job.name} crashed: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}",
        allowed="At {0.filename}:{0.lineno}.".format(traceback.extract_tb(error.__traceback__)[-1]),
        hint="If the network is not the cause, try --reference, and please report this with the plug-in.",
    )
