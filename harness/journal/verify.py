"""What must hold of a finished run before anybody believes it: the one check for runs of this machine and of others.

A journal is text: a kill, a full disk or an editor may have left anything there. Whoever ranks runs, or takes
them in from elsewhere, asks here, and gets either a record whose every fact has its type and range, or why not.
That a run adds up does not prove that it was trained: whoever writes a whole journal can write a consistent one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np

from harness import data
from harness.data import SIDE
from harness.errors import DataError, HarnessError
from harness.journal.journal import Journal, Outcome, Record
from harness.spec import BUDGET, RECIPE_FIELDS, Arithmetic, Execution, Precision, Recipe
from harness.training import class_accuracy, confusion

_NUMBERS = ("train_loss", "held_out_loss", "lr", "seconds", "images_per_second")

_ARITHMETICS = [
    Arithmetic(precision, channels_last, padded, execution)
    for precision in get_args(Precision)
    for channels_last in (False, True)
    for padded in (False, True)
    for execution in get_args(Execution)
]

PARTS = ("batch norm", "dropout", "fully connected", "global average pooling")
"""The parts the assignment asks about."""


def finished(journal: Journal) -> Record:
    """Return the record of a run that finished by the rules of today and holds against itself.

    Raises:
        DataError: why it does not count, in a few words.
    """
    try:
        record = journal.read()
        if record is None:
            raise DataError("nothing is recorded")
        if record.state != "finished":
            raise DataError("not finished" if record.state == "running" else record.state)
        if record.job["protocol"] != BUDGET.protocol:
            raise DataError(f"protocol {_int(record.job['protocol'])}; the rules are now {BUDGET.protocol}")
        _check_texts(record)
        _check_job(record, journal.source)
        _check_network(record.started)
        _check_course(record)
        _check_origin(record)
    except HarnessError as error:
        raise DataError(error.wrong) from error
    except Exception as error:  # whatever a text leads to that somebody damaged or made up
        raise DataError(f"its journal is damaged ({type(error).__name__})") from error
    if not journal.has_outcome:
        raise DataError("its answers are missing")
    return record


def outcome(journal: Journal, record: Record) -> Outcome:
    """Return the final test pass of a finished run, held against its score and against the test set's labels.

    Raises:
        DataError: it cannot be read, or does not hold.
    """
    found = journal.outcome()
    name = record.job["dataset"]
    if not data.are_test_labels(name, found.labels):
        raise DataError(f"its labels are not those of {name}")
    if found.answers.shape != found.labels.shape or found.answers.dtype != np.uint8 or found.answers.max() > 9:
        raise DataError("its answers are not one class an image")
    count = len(found.hardest)
    shown = found.images.shape == (count, SIDE, SIDE) and found.images.dtype == np.uint8
    if not shown or found.confidence.shape != (count,) or found.hardest.shape != (count,):
        raise DataError("its hardest images are not that")
    if not all(0 <= position < len(found.labels) for position in found.hardest.tolist()):
        raise DataError("its hardest images are not of the test set")
    counts = confusion(found.answers, found.labels)
    assert record.ended
    score, by_class = int(counts.trace()) / len(found.labels), class_accuracy(counts)
    if score != record.ended["accuracy"] or not np.allclose(by_class, record.ended["class_accuracy"], atol=1e-9):
        raise DataError("its score is not that of its answers")
    return found


def _check_texts(record: Record) -> None:
    """What is printed may hold nothing that a terminal obeys, and a name has to do for a file's."""
    job, origin = record.job, record.origin or {"from": ""}
    shown = [job["name"], job["path"], record.device, origin["from"]]
    settings = [text for pair in job["knobs"].items() for text in pair if isinstance(text, str)]
    if not all(text.isprintable() for text in (*shown, *settings)):
        raise DataError("its journal holds characters that cannot be printed")
    name = job["name"]
    if not name or name.startswith(".") or set(name) & set("/\\"):
        raise DataError("its name is no name of a file")


def _check_job(record: Record, source: str) -> None:
    job = record.job
    if hashlib.sha256(source.encode()).hexdigest() != job["sha256"]:
        raise DataError("its plug-in is not the one that was trained: the SHA-256 differs")
    dataset = job["dataset"]
    if job["held_out"] != "test" or dataset not in data.NAMES or job["dataset_digest"] != data.digest(dataset):
        raise DataError("its dataset is not one that is known here")
    if record.started["is_benchmark"] is not (dataset in data.IDX_DATASETS and data.IDX_DATASETS[dataset].is_benchmark):
        raise DataError("its dataset is not what it says")
    recipe = Recipe(**{name: job["recipe"][name] for name in RECIPE_FIELDS})
    if recipe.epochs > BUDGET.epochs:
        raise DataError("it is over the budget")
    if _int(job["seed"]) < 0:
        raise DataError("its seed is none")
    if record.arithmetic not in _ARITHMETICS:
        raise DataError("its arithmetic is not one that is known here")
    plain = all(isinstance(value, (bool, int, float, str)) for value in job["knobs"].values())
    if not plain or set(job["default_knobs"]) != set(job["knobs"]):
        raise DataError("its knobs are not plain values")


def _check_network(started: Mapping[str, Any]) -> None:
    _finite([entry["numbers"] for entry in started["ledger"]])
    numbers = [entry["numbers"] for entry in started["ledger"] if entry["counted"] is True]
    if sum(numbers) != _int(started["parameters"]):
        raise DataError(f"its ledger adds up to {sum(numbers):,} parameters, not to {started['parameters']:,}")
    if not 0 < sum(numbers) <= BUDGET.parameters:
        raise DataError("it is over the budget")
    if {type(entry[name]) for entry in started["ledger"] for name in ("layer", "name", "kind")} != {str}:
        raise DataError("its ledger is none")
    anatomy = started["anatomy"]
    _int(anatomy["multiply_adds"])
    _int(anatomy["receptive_field"])
    if not all(isinstance(anatomy["uses"][part], bool) for part in PARTS):
        raise DataError("its parts are not told")
    _int(started["time"])


def _check_course(record: Record) -> None:
    """The epochs, and the facts of the end that follow from them."""
    ended, epochs = record.ended, record.epochs
    assert ended
    if [epoch["number"] for epoch in epochs] != list(range(1, record.job["recipe"]["epochs"] + 1)):
        raise DataError("its epochs are not those of its recipe")
    _finite([epoch[name] for epoch in epochs for name in _NUMBERS] + [ended["seconds"], ended["loss"]])
    _finite([entry.get("wall_seconds", 0) for entry in (*epochs, ended)])  # records from before it was kept have none
    shares = [epoch[name] for epoch in epochs for name in ("held_out_accuracy", "train_accuracy")]
    shares += [ended["accuracy"], *ended["class_accuracy"]]
    _finite(shares)
    if max(shares) > 1 or len(ended["class_accuracy"]) != 10:
        raise DataError("a share of its journal is none")
    curve = [epoch["held_out_accuracy"] for epoch in epochs]
    if curve[-1] != ended["accuracy"]:
        raise DataError("its score is not that of its last epoch")
    if (ended["best_accuracy"], ended["best_epoch"]) != (max(curve), curve.index(max(curve)) + 1):
        raise DataError("its best epoch is not that of its curve")
    reached = [number for number, accuracy in enumerate(curve, 1) if accuracy >= BUDGET.accuracy]
    if ended["epochs_to_target"] != (reached[0] if reached and record.started["is_benchmark"] else None):
        raise DataError("its epochs to the target are not those of its curve")


def _check_origin(record: Record) -> None:
    if record.origin and record.origin["trials"] is not None and _int(record.origin["trials"]) < 0:
        raise DataError("its number of trials is no number")


def _int(value: Any) -> int:
    if type(value) is not int or abs(value) > 2**62:
        raise DataError("a number of its journal is none")
    return value


def _finite(values: list[Any]) -> None:
    sound = set(map(type, values)) <= {int, float} and min(values) >= 0 and math.isfinite(sum(values))
    if not sound:  # the sum shows what is not a number
        raise DataError("a number of its journal is none")
