"""What the scripts of this folder use of the harness's inner parts, all in one place.

When those parts change, this file and `unchecked/sitecustomize.py` must follow; no other file here knows them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from harness import audit, data, plugins, runs, training
from harness.audit import over_the_same_tensors
from harness.data import Dataset
from harness.runs import build
from harness.spec import REFERENCE, ComputeMode, Job, Recipe
from harness.training import accelerate_scoring, compute, predict
from harness.training.augment import DRAWS as DRAWS
from harness.training.augment import augment
from harness.training.compatible import _step
from harness.training.memory_layout import accelerate


@dataclass(frozen=True)
class Ready:
    """A network that passed the audit, on its device, and all that its training needs.

    Attributes:
        network: the plug-in's own, on the CPU.
        chosen: how a run on this device would compute it.
    """

    job: Job
    dataset: Dataset
    network: nn.Module
    graphs: audit.Graphs
    chosen: ComputeMode

    @property
    def recipe(self) -> Recipe:
        """The recipe by which it is trained."""
        return self.job.recipe

    @property
    def device(self) -> torch.device:
        """Where it is trained."""
        return torch.device(self.job.device)


def ready(path: str, dataset: str, device: str, *, seed: int = 0, one_batch: bool = False) -> Ready:
    """Audit the network in `path`, build it from `seed`, and choose its arithmetic, as a run does.

    Args:
        one_batch: keep as many training images as one batch holds, and augment in every epoch: there is then one
            kind of step, and a captured training holds one graph.
    """
    whole = data.load(dataset)
    architecture = plugins.load(path)
    recipe = architecture.recipe
    if one_batch:
        recipe = replace(recipe, augment_fade=0)
        whole = replace(whole, train=whole.train.at(torch.arange(min(recipe.batch_size, len(whole.train.labels)))))
    job = runs.jobs(architecture, architecture.knobs, recipe, whole, range(seed, seed + 1), device)[0]
    compute.set_deterministic(device)
    built, there = build(job), torch.device(device)
    images = len(whole.train.labels) * recipe.epochs
    chosen = runs.choose_mode(job, images, built.audit.own_graphs(there)).mode
    return Ready(job, whole.to(there), built.network, built.audit.graphs(built.network, there), chosen)


def far_apart(found: Ready) -> list[float]:
    """Return how far answers, gradients and buffers of a step with weights channels last lie from a plain step's.

    In training, then at evaluation; each relative to the largest of its kind.
    """
    few = found.dataset.normalise(data.to_float(found.dataset.train.images[:12]))
    apart = []
    for learns, graph in ((True, found.graphs.train), (False, found.graphs.evaluation)):
        plain, moved = (_step(graph, learns, replace(REFERENCE, channels_last=last), few) for last in (False, True))
        apart += [
            float((one - other).abs().max() / other.abs().max().clamp_min(1e-30))
            for one, other in zip(moved.values(), plain.values(), strict=True)
        ]
    return apart


# --- training ---------------------------------------------------------------------------------------------


class Steps:
    """The steps of one training, of a copy of the network: for timing and counting.

    Attributes:
        batch: images of a whole batch.
        count: steps of an epoch.
    """

    def __init__(self, found: Ready, how: ComputeMode | None = None) -> None:
        self._recipe, self._dataset = found.recipe, found.dataset
        graphs = copy.deepcopy(found.graphs)
        self._average = training.Average(graphs.train, found.recipe.ema) if found.recipe.ema else None
        trained = over_the_same_tensors(graphs.train)
        self._steps = training.Steps(trained, found.dataset, found.recipe, how or found.chosen, self._average)
        if self._average:
            graphs.evaluation.load_state_dict(self._average.state, assign=True)
        self._scored = accelerate_scoring(graphs.evaluation, how or found.chosen)
        self.batch, self.count = max(self._steps.sizes), len(self._steps.sizes)

    def epoch(self) -> None:
        """Queue the steps of an epoch; a GPU is then still at work."""
        self._steps.queue(0, 1, [0.01] * self.count)

    def whole_batch(self) -> None:
        """Take the first step of an epoch once more: a replay, where steps are captured."""
        steps = self._steps
        steps._cursor.copy_(steps._start)
        replay = steps._replays.get(self.batch)
        if replay:
            replay()
        else:
            steps._step(self.batch)

    def score(self, batch: int | None = None) -> Tensor:
        """Return the logits of the held-out images, `batch` at a time; as a run scores them, by default."""
        self._scored.refresh()
        return predict(self._scored, self._dataset, self._dataset.held_out, batch)

    def ask_again(self, logits: Tensor) -> None:
        """Evaluate the held-out images in other batches, as at the end of a run."""
        runs.recheck_predictions(self._scored, logits, self._dataset, "")

    def parts(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        """Yield what a step is made of: network forward, with backward, and the update."""
        steps = self._steps
        places = torch.arange(self.batch, device=steps.device)
        pixels = self._dataset.normalise(data.to_float(self._dataset.train.images[places]))
        labels = self._dataset.train.labels[places]

        def forward() -> Tensor:
            return steps._logits(steps._lean or steps._network, pixels)

        def forward_and_backward() -> None:
            steps._optimizer.zero_grad()
            steps._loss(forward(), labels).backward()
            if steps._lean:
                steps._lean.widen_gradients()

        yield "forward", forward
        yield "forward and backward", forward_and_backward
        forward_and_backward()
        yield "update", steps._optimizer.step


def optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the recipe's optimiser."""
    return training.make_optimizer(network, recipe)


def augmented(found: Ready, rows: Tensor, draws: Tensor) -> Tensor:
    """Return training images (N, 1, 28, 28) as the network sees them, augmented by `draws` (N, DRAWS)."""
    pixels = data.to_float(found.dataset.train.images[rows])
    return found.dataset.normalise(augment(pixels, draws, found.recipe, 1.0))


def graph_channels_last(found: Ready) -> GraphModule:
    """Return a copy of the graph that is trained, its weights channels last."""
    trained = copy.deepcopy(found.graphs.train)
    return accelerate(trained, replace(REFERENCE, channels_last=True))  # type: ignore[return-value]
