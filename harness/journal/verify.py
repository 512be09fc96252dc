"""The one check that a finished run passes before it counts, whether it was trained here or imported.

A journal is text: a kill, a full disk or an editor may have left anything in it. Leaderboard and import call this
check and get a run in which every fact has its type and range, or the reason why not. A consistent run need not have
been trained: a person who writes a whole journal can write a consistent one.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Collection, Iterable
from typing import Any, get_args

import numpy as np

from harness import data
from harness.confine import LEVELS
from harness.data import SIDE
from harness.errors import DataError, HarnessError
from harness.events import Epoch
from harness.journal.journal import Journal
from harness.journal.outcome import Outcome
from harness.journal.record import MOST_AUTHOR, MOST_STATE, FinishedRun, IllegalRecipe, Origin, Record, RunStart
from harness.spec import BUDGET, CARRIED_FROM, MOST_SEEDS, ComputeMode, Execution, Precision
from harness.training import class_accuracy, confusion

_NUMBERS = ("train_loss", "held_out_loss", "lr", "seconds", "images_per_second")

_MODES = [
    ComputeMode(precision, channels_last, padded, execution)
    for precision in get_args(Precision)
    for channels_last in (False, True)
    for padded in (False, True)
    for execution in get_args(Execution)
]

PARTS = ("batch norm", "dropout", "fully connected", "global average pooling")
"""The parts of a network that the assignment asks about."""


def verify_run(journal: Journal, older: Collection[int] = ()) -> FinishedRun:
    """Return a finished run that follows today's protocol and is consistent.

    Args:
        older: older protocols that are let through as well.

    Raises:
        DataError: the run does not count; the message says why in a few words.
    """
    try:
        record = journal.read()
        if record is None:
            raise DataError("nothing is recorded")
        if record.state != "finished":
            said = {"running": "not finished", "withdrawn": f"withdrawn: {record.reason}"}
            raise DataError(said.get(record.state, record.state))
        _check_protocol(record, older)
        run = FinishedRun.of(record)
        _check_texts(run)
        _check_job(run.start, journal.source)
        _check_network(run.start)
        _check_course(run)
        if run.origin:
            _check_origin(run.origin)
    except HarnessError as error:
        raise DataError(error.message) from error
    except IllegalRecipe as error:
        raise DataError(str(error)) from error
    except Exception as error:  # a damaged or forged journal can raise anything
        raise DataError(f"its journal is damaged ({type(error).__name__})") from error
    if not journal.has_outcome:
        raise DataError("its predictions are missing")
    if run.job.network and not journal.has_submission:
        raise DataError("its graph is missing")
    return run


def verify_outcome(journal: Journal, run: FinishedRun) -> Outcome:
    """Return the final test pass of a finished run, checked against its score and the labels of the test set.

    Raises:
        DataError: the test pass cannot be read, or is not consistent with them.
    """
    found = journal.outcome()
    name = run.job.dataset
    if not data.are_test_labels(name, found.labels):
        raise DataError(f"its labels are not those of {name}")
    if found.answers.shape != found.labels.shape or found.answers.dtype != np.uint8 or found.answers.max() > 9:
        raise DataError("its predictions are not one class per image")
    count = len(found.hardest)
    shown = found.images.shape == (count, SIDE, SIDE) and found.images.dtype == np.uint8
    if not shown or found.confidence.shape != (count,) or found.hardest.shape != (count,):
        raise DataError("its hardest images have the wrong shape or type")
    if not all(0 <= position < len(found.labels) for position in found.hardest.tolist()):
        raise DataError("its hardest images are not of the test set")
    counts = confusion(found.answers, found.labels)
    score, by_class = int(counts.trace()) / len(found.labels), class_accuracy(counts)
    if score != run.result.accuracy or not np.allclose(by_class, run.result.class_accuracy, atol=1e-9):
        raise DataError("its score does not follow from its predictions")
    return found


def _check_protocol(record: Record, older: Collection[int]) -> None:
    protocol, carried = _int(record.started["job"]["protocol"]), record.carried
    if carried:
        if (protocol, carried.protocol) != (carried.before, BUDGET.protocol) or protocol not in CARRIED_FROM:
            raise DataError("its note of the protocol that it was carried over from is damaged")
        if not re.fullmatch("[0-9a-f]{64}", carried.network) or _int(carried.time) < 0:
            raise DataError("its note of the protocol that it was carried over from is damaged")
    elif protocol != BUDGET.protocol and protocol not in older:
        raise DataError(f"protocol {protocol}; the rules are now {BUDGET.protocol}")


def _check_texts(run: FinishedRun) -> None:
    """Refuse control characters, which a terminal would obey, and names that are not valid file names."""
    job = run.job
    author = run.start.author
    if not isinstance(author, str) or len(author) > MOST_AUTHOR:
        raise DataError(f"its author is not a name of at most {MOST_AUTHOR} characters")
    shown = [job.name, job.path, author, run.start.device, run.origin.place if run.origin else ""]
    settings = [text for pair in job.knobs.items() for text in pair if isinstance(text, str)]
    if not all(text.isprintable() for text in (*shown, *settings)):
        raise DataError("its journal holds characters that cannot be printed")
    if not job.name or job.name.startswith(".") or set(job.name) & set("/\\"):
        raise DataError("its name is not a valid file name")


def _check_origin(origin: Origin) -> None:
    if origin.trials is not None and _int(origin.trials) < 0:
        raise DataError("its number of trials is negative")
    if len(origin.held_back or ()) > MOST_SEEDS:
        raise DataError("its list of seeds that were begun and not handed over is too long")
    for seed, state in origin.held_back or ():
        if _int(seed) < 0 or not state.isprintable() or len(state) > MOST_STATE:
            raise DataError("its list of seeds that were begun and not handed over is damaged")
    for title, seed, state in origin.lost:
        texts = title + state
        if _int(seed) < 0 or not texts.isprintable() or len(texts) > 2 * MOST_STATE or len(origin.lost) > MOST_SEEDS:
            raise DataError("its list of networks that were begun and not handed over is damaged")


def _check_job(start: RunStart, source: str) -> None:
    job = start.job
    if hashlib.sha256(source.encode()).hexdigest() != job.sha256:
        raise DataError("its plug-in is not the one that was trained: the SHA-256 differs")
    if job.held_out != "test" or job.dataset not in data.NAMES or job.dataset_digest != data.digest(job.dataset):
        raise DataError("its dataset is unknown here")
    idx = data.IDX_DATASETS.get(job.dataset)
    if start.is_benchmark is not (idx is not None and idx.is_benchmark):
        raise DataError("its dataset does not match its benchmark flag")
    if job.recipe.epochs > BUDGET.epochs:
        raise DataError("it is over the budget")
    if _int(job.seed) < 0:
        raise DataError("its seed is negative")
    if start.mode not in _MODES:
        raise DataError("its compute mode is unknown here")
    if job.isolation not in LEVELS:
        raise DataError("the isolation of its file is unknown here")
    plain = all(isinstance(value, (bool, int, float, str)) for value in job.knobs.values())
    if not plain or set(job.default_knobs) != set(job.knobs):
        raise DataError("its knobs are not plain values")


def _check_network(start: RunStart) -> None:
    _finite(entry.numbers for entry in start.ledger)
    total = sum(entry.numbers for entry in start.ledger if entry.counted is True)
    if total != _int(start.parameters):
        raise DataError(f"its ledger adds up to {total:,} parameters, not to {start.parameters:,}")
    if not 0 < total <= BUDGET.parameters:
        raise DataError("it is over the budget")
    if {type(text) for entry in start.ledger for text in (entry.layer, entry.name, entry.kind)} != {str}:
        raise DataError("its ledger holds a name that is not text")
    _int(start.model.multiply_adds)
    _int(start.model.receptive_field)
    if not all(isinstance(start.model.uses[part], bool) for part in PARTS):
        raise DataError("its list of parts is incomplete")
    _int(start.time)


def _check_course(run: FinishedRun) -> None:
    """Check the epochs, and the facts of the result that follow from them."""
    result, epochs = run.result, run.epochs
    if [epoch.number for epoch in epochs] != list(range(1, run.job.recipe.epochs + 1)):
        raise DataError("its epochs do not match its recipe")
    _finite([*_numbers_of(epochs), result.seconds, result.loss])
    walls = [*(epoch.wall_seconds for epoch in epochs), result.wall_seconds]
    _finite(0 if seconds is None else seconds for seconds in walls)  # older records have none
    curve = [epoch.held_out_accuracy for epoch in epochs]
    shares = [*curve, *(epoch.train_accuracy for epoch in epochs), result.accuracy, *result.class_accuracy]
    _finite(shares)
    if max(shares) > 1 or len(result.class_accuracy) != 10:  # type: ignore[type-var, operator]
        raise DataError("an accuracy of its journal is above 1 or missing")
    if curve[-1] != result.accuracy:
        raise DataError("its score is not that of its last epoch")
    best = max(run.accuracies)
    if (result.best_accuracy, result.best_epoch) != (best, run.accuracies.index(best) + 1):
        raise DataError("its best epoch does not match its curve")
    reached = [number for number, accuracy in enumerate(run.accuracies, 1) if accuracy >= BUDGET.accuracy]
    if result.epochs_to_target != (reached[0] if reached and run.start.is_benchmark else None):
        raise DataError("its epochs to the target do not match its curve")


def _numbers_of(epochs: Iterable[Epoch]) -> list[Any]:
    return [getattr(epoch, name) for epoch in epochs for name in _NUMBERS]


def _int(value: Any) -> int:
    if type(value) is not int or abs(value) > 2**62:
        raise DataError("a number of its journal is not an integer, or too large")
    return value


def _finite(numbers: Iterable[Any]) -> None:
    values = list(numbers)
    sound = set(map(type, values)) <= {int, float} and min(values) >= 0 and math.isfinite(sum(values))
    if not sound:  # one value that is not finite makes the sum not finite
        raise DataError("a number of its journal is negative or not finite")
