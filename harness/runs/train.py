"""One job, trained and recorded: the one path that `run` takes, and every other command that trains.

`train` turns a job into events and touches no file but the data. `record` writes the events to a
journal, lets the tracker know, and hands them on. Whoever asks for the next event decides whether
there is one: stopping is a plain ``break``.
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
        environment: of the process that trains: device, threads, versions.
        untrained: share of the untrained network in the average that is scored after the last step.
        slow_because: why it is not computed as the rule says for this machine; empty where it is or goes on.
        unrepeatable: operators of the network that may give other bits each time on this device.
        epochs_before: that it was trained before it was interrupted.
        run_id: its journal's, once it has one.
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
"""What a run yields, and None where the work of an epoch is queued: somebody else may have a turn."""


@dataclass(frozen=True)
class Progress:
    """How far a run came that was interrupted.

    Attributes:
        checkpoint: what it goes on from.
        epochs: all that are recorded; of one after the checkpoint the weights are lost.
        mode: how it was computed, and goes on to be.
    """

    checkpoint: Checkpoint
    epochs: tuple[Epoch, ...]
    mode: ComputeMode


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
    compute.set_deterministic(job.device)
    device = torch.device(job.device)
    dataset = data.load(job.dataset, job.held_out).to(device)
    if dataset.digest != job.dataset_digest:
        raise DataError(f"{job.dataset} here is another one ({dataset.digest}) than the job's ({job.dataset_digest}).")
    refuse_single_image(len(dataset.train.labels), job.recipe)
    built = build(job)
    audit.enforce(built.audit.ledger, job.recipe, BUDGET)
    graphs, reference = built.audit.graphs(built.network, device), built.reference.own_graphs(device)
    images = len(dataset.train.labels) * job.recipe.epochs
    choice = Choice(progress.mode) if progress else choose_mode(job, images, reference)
    begun = prepare_training(job, dataset, graphs, reference, choice, progress.checkpoint if progress else None, keep)
    epochs = [*progress.epochs[: progress.checkpoint.epoch]] if progress else []
    yield Started(
        built.audit.ledger,
        built.model,
        device_name(device),
        begun.mode,
        dataset.is_benchmark,
        describe_environment(device_name(device)),
        _untrained(job.recipe, len(dataset.train.labels)),
        begun.slow_because,
        unrepeatable(begun.mode, reference.train) if job.device == "cuda" else (),
        len(epochs),
    )
    yield from _scored_epochs(job, dataset, graphs.evaluation, begun, epochs)


def _scored_epochs(
    job: Job, dataset: data.Dataset, graph: GraphModule, begun: PreparedTraining, epochs: list[Epoch]
) -> Iterator[Event | Checkpoint | None]:
    """Train, score after each epoch, and add it to those that there are already; last, the result.

    Args:
        graph: what is scored, over the tensors that are trained.
    """
    if begun.average:
        graph.load_state_dict(begun.average.state, assign=True)
    tensors_by_name = graph.state_dict(keep_vars=True)  # without what scoring makes of them
    scored = accelerate_scoring(graph, begun.mode)
    batch = COMPILED_BATCH if begun.mode.execution == "compiled" else None
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
    """A training before its first epoch.

    Attributes:
        mode: how its steps are computed.
        slow_because: why that is not as the rule says; empty where it is.
        average: of its weights, if it has one.
        epochs: its epochs.
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
    """Make ready to train the audited network, in up to a minute where it is compiled for the first time.

    Code that torch.compile fails at or gets wrong is not used, and what cannot be captured is not: the network is then
    trained one operator after the other.

    Args:
        reference: the graphs with numbers that the job's seed has no part in, by which compiled code is judged.

    Raises:
        CrashedError: `checkpoint` comes from a training that was compiled, or captured.
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
            f"Seed {job.seed} cannot go on as it began: {because}.",
            hint="Train it anew: the same command with --retrain.",
        )
    reasons = "; ".join(filter(None, (choice.because, because)))
    return prepare_training(
        job, dataset, graphs, reference, Choice(replace(used, execution="eager"), reasons), keep=keep
    )


def _untrained(recipe: Recipe, images: int) -> float:
    steps = recipe.epochs * math.ceil(images / recipe.batch_size)
    return recipe.ema**steps if recipe.ema else 0.0


def choose_mode(job: Job, images: int, reference: audit.Graphs) -> Choice:
    """Choose how a job's steps are computed on this machine: as the rule says, where that suits the network.

    Args:
        images: to train on, all epochs together.
        reference: the graphs with numbers that the job's seed has no part in.
    """
    if job.plain:
        return Choice(REFERENCE)
    wanted = compute.mode_for_this_machine(job.device, images)
    return choose_compatible(wanted, reference.train, reference.evaluation, job.path)


@contextlib.contextmanager
def telling_breakdowns(job: Job) -> Iterator[None]:
    """Raise a job's error that has no message for the user as one that says where training broke down."""
    try:
        yield
    except HarnessError:
        raise
    except Exception as error:
        raise broke_down(job, error) from error


def broke_down(job: Job, error: Exception) -> CrashedError:
    """Return what to raise for an error that has no message for the user."""
    if ran_out_of_memory(error):
        return OutOfMemory.of(job.path, error)
    return CrashedError(
        f"Training {job.name} broke down: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}",
        allowed="At {0.filename}:{0.lineno}.".format(traceback.extract_tb(error.__traceback__)[-1]),
        hint="If the network is innocent, try --reference, and please report this with the plug-in.",
    )
