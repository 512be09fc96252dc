"""Jobs: one training each, as plain data."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace

from harness import data
from harness.errors import UsageError
from harness.spec import Architecture, Group, HeldOut, Job, Knob, Recipe


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


def refuse_single_image(count: int, recipe: Recipe) -> None:
    """Batch norm has no variance over one image: it would turn every weight into a not-a-number."""
    if count % recipe.batch_size == 1 or recipe.batch_size == 1:
        raise UsageError(
            f"batch_size {recipe.batch_size} leaves a batch of one image ({count:,} are trained on).",
            allowed="Every batch holds two images or more.",
            hint=f"Use batch_size {recipe.batch_size + 1}.",
        )
