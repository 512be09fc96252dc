"""What recorded runs, studies and stores hold the code to: these names are formats, and outlive any rebuilding."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from pathlib import Path

import pytest

from harness import plugins, tuning
from harness.audit import ModelSummary
from harness.audit.count import Entry
from harness.audit.summary import Layer
from harness.data import load
from harness.events import Checkpoint, Epoch, Trial
from harness.journal import Carried, Outcome
from harness.spec import RECIPE_FIELDS, ComputeMode, Group, Job
from harness.training import derive_seed

ARCHITECTURES = Path(__file__).parent.parent / "architectures"
"""Every recorded run carries the SHA-256 of its file."""

FILES = {
    "conv_transition": "bd1d56f9e10fafb52d7cf331eb16aa297f3a5c0e5c6b4bca750e9fd751517b68",
    "depthwise_head": "35e8f2a8124f1c6009b3e653677785a492189ec3aea229b39851f7e4a31d423b",
    "gap_dropout": "a1c2a1421228dd5dfb688c3e0bbcedac3eb2a95440a7b48d9de51eac1ab4ad75",
    "p4m_convolution": "e71172881a87b239cad1973313161d88997cb2ab9a9b539237d3d0fb08970060",
    "s6_gap": "6c38cc26a48e3bae225acb5b71645babea2523e44742f276d9a170c087b8e3bb",
    "shared_convolution": "5dca5b7cf119d3e566b8086809894674ec64d003499f3326a665aec84069b356",
    "slim": "5eb704a01bda36c6198e7b9f35034e90fff73dacb4ca254f97019ee3c2eda529",
    "wide_stem": "c0e29ea44049e385aefbc8a71d09d7f065136de379e24c085634e457050165ee",
}

JOURNAL = {
    Job: """name path source sha256 knobs default_knobs recipe dataset dataset_digest seed device
        held_out plain protocol submission network isolation""",
    Carried: "network before protocol time",
    Epoch: "number lr train_loss train_accuracy seconds images_per_second held_out_loss held_out_accuracy wall_seconds",
    Entry: "layer name kind shape numbers counted",
    ModelSummary: "layers uses receptive_field multiply_adds ends_in_softmax",
    Layer: "name kind output parameters",
    ComputeMode: "precision channels_last padded execution",
    Group: "id size",
    Trial: "number state value settings epochs parameters reason started ended same_as",
    Outcome: "answers labels hardest confidence images",
    Checkpoint: "epoch network average optimizer",
}
"""Fields in their order, as journals, studies, archives and checkpoints hold them."""

RECIPE = """
epochs batch_size optimizer lr momentum nesterov weight_decay schedule warmup_epochs step_epochs step_gamma
label_smoothing ema rotation translate scale shear zoom_p zoom_crop augment_fade
"""
"""Their order makes the ids of the board's rows."""

SEARCH = """
study study_sha256 architecture architecture_sha256 dataset dataset_digest epochs seed sampler pruner protocol
"""
"""Their order makes the ids of studies."""


@pytest.mark.parametrize("name", FILES)
def test_recorded_architecture_keeps_its_bytes(name: str) -> None:
    assert hashlib.sha256((ARCHITECTURES / f"{name}.py").read_bytes()).hexdigest() == FILES[name]


@pytest.mark.parametrize("kind", JOURNAL, ids=lambda kind: kind.__name__)
def test_recorded_dataclass_keeps_its_fields(kind: type) -> None:
    assert [declared.name for declared in fields(kind)] == JOURNAL[kind].split()


def test_recipe_fields_keep_their_order() -> None:
    assert [*RECIPE_FIELDS] == RECIPE.split()


def test_study_settings_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ARCHITECTURES.parent)
    study = plugins.load_study("studies/s6_gap.py")
    search = tuning.Search(study, load("digits", "validation"), 3, 0, "tpe", "median", "cpu")
    assert [*search.settings] == SEARCH.split()


def test_purposes_of_random_numbers_keep_their_seeds() -> None:
    purposes = ("weights", "order", "augment", "network", "sampler")
    assert [derive_seed(5, 2, purpose) % 2**32 for purpose in purposes] == [
        3932374132,
        172363274,
        1989851795,
        2522630899,
        2869222185,
    ]
    assert tuning.FIRST_SEED == 1_000_000
