import inspect
import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import errors
from harness.errors import AuditError, BudgetError, ContractError, DataError, HarnessError, did_you_mean

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, HarnessError)]


def test_docstring_lists_every_error_and_exit_code() -> None:
    names = r"\w+Error|Refusal|ChildDied|OutOfMemory|ClusterLost|WorkerLost"
    drawn = dict(re.findall(rf"^\W*({names}) +(\d)? ", errors.__doc__ or "", re.MULTILINE))
    assert set(drawn) == {kind.__name__ for kind in CLASSES}
    for kind in CLASSES:
        if kind is not errors.Refusal:
            assert drawn[kind.__name__] == str(kind.exit_code), kind


def test_exit_codes_are_stable() -> None:
    promised = {
        "HarnessError": 1,
        "UsageError": 2,
        "ContractError": 2,
        "BudgetError": 3,
        "AuditError": 4,
        "DataError": 5,
        "DivergedError": 6,
        "TrackerError": 7,
        "CrashedError": 8,
        "ChildDied": 8,
        "OutOfMemory": 8,
        "ClusterLost": 8,
        "WorkerLost": 8,
    }
    assert {kind.__name__: kind.exit_code for kind in CLASSES if kind is not errors.Refusal} == promised


def test_lines_are_message_allowed_and_hint() -> None:
    assert DataError("message", allowed="allowed", hint="hint").lines == ["message", "allowed", "hint"]


@given(allowed=st.sampled_from(["", "allowed"]), hint=st.sampled_from(["", "hint"]))
def test_empty_line_is_omitted(allowed: str, hint: str) -> None:
    assert DataError("message", allowed=allowed, hint=hint).lines == [
        text for text in ("message", allowed, hint) if text
    ]


@pytest.mark.parametrize("kind", [ContractError, BudgetError, AuditError])
def test_refusal_line_has_rule_and_place(kind: type[errors.Refusal]) -> None:
    refusal = kind("rule-id", "message", where="file.py:3", hint="hint")
    assert refusal.lines == ["[rule-id] message (file.py:3)", "hint"]
    assert kind("rule-id", "message").lines == ["[rule-id] message"]


def test_str_of_error_is_its_message() -> None:
    assert str(HarnessError("message", allowed="allowed", hint="hint")) == "message"


def test_only_near_misses_are_suggested() -> None:
    assert did_you_mean("widht", ["dropout", "width"]) == "Did you mean 'width'?"
    assert did_you_mean("zzz", ["dropout", "width"]) == ""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
        type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory."),
    ],
)
def test_out_of_memory_is_recognised_in_every_form(error: Exception) -> None:
    assert errors.ran_out_of_memory(error)
    behind = ContractError("build-raises", "build raised")
    behind.__cause__ = error
    assert errors.ran_out_of_memory(behind)
    assert not errors.ran_out_of_memory(RuntimeError("shapes cannot be multiplied"))


@pytest.mark.parametrize(
    "error",
    [
        errors.CrashedError("message", allowed="allowed", hint="hint"),
        errors.BudgetError("parameters", "message", excess=7, where="net.py:3", hint="hint"),
    ],
)
def test_errors_survive_pickling(error: errors.HarnessError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (again.lines, vars(again), str(again)) == (error.lines, vars(error), str(error))
