"""Jobs: one training each, as data that can be sent to another process."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace

from harness import data
from harness.errors import UsageError
from harness.runs.build import submitted
from harness.spec import Architecture, Group, HeldOut, Job, Knob, Recipe


def jobs(
    architecture: Architecture,
    knobs: Mapping[str, Knob],
    recipe: Recipe,
    dataset: data.Dataset,
    seeds: Sequence[int],
    device: str,
    held_out: HeldOut = "test",
    plain: bool = False,
) -> list[Job]:
    """Return one job for each seed; those of a study have no submission yet, as each trial's process makes its own.

    Args:
        held_out: the images to score on: the test set or, in a study, a part of the training set.
        plain: compute in the reference mode: float32, one operator at a time.

    Raises:
        Refusal: the file breaks the contract, or its network a rule.
        CrashedError: the process of the file died, hung, or was out of memory.
    """
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
    if held_out == "test":
        first = submitted(first)
    return [replace(first, seed=seed) for seed in seeds]


def new_group(size: int) -> Group | None:
    """Return a group for `size` runs, or None for a single one."""
    return Group(secrets.token_hex(8), size) if size > 1 else None


def refuse_single_image(count: int, recipe: Recipe) -> None:
    """Refuse a recipe that leaves a batch of one image, whose variance is undefined in batch norm.

    Args:
        count: number of training images.

    Raises:
        UsageError: a batch would hold one image.
    """
    if count % recipe.batch_size == 1 or recipe.batch_size == 1:
        raise UsageError(
            f"batch_size {recipe.batch_size} leaves a batch of one image ({count:,} are trained on).",
            allowed="Every batch needs at least two images.",
            hint=f"Use batch_size {recipe.batch_size + 1}.",
        )
