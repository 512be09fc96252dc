import inspect
import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import errors
from harness.errors import AuditError, BudgetError, ContractError, DataError, HarnessError, did_you_mean

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, HarnessError)]


def test_the_tree_in_the_docstring_names_every_class_with_its_exit_code() -> None:
    drawn = dict(
        re.findall(
            r"^\W*(\w+Error|Refusal|OutOfMemory|ClusterLost|WorkerLost) +(\d)? ", errors.__doc__ or "", re.MULTILINE
        )
    )
    assert set(drawn) == {kind.__name__ for kind in CLASSES}
    for kind in CLASSES:
        if kind is not errors.Refusal:
            assert drawn[kind.__name__] == str(kind.exit_code), kind


def test_exit_codes_are_the_ones_promised_to_scripts() -> None:
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
        "OutOfMemory": 8,
        "ClusterLost": 8,
        "WorkerLost": 8,
    }
    assert {kind.__name__: kind.exit_code for kind in CLASSES if kind is not errors.Refusal} == promised


def test_lines_are_what_is_wrong_what_is_legal_what_to_do() -> None:
    assert DataError("wrong", allowed="legal", hint="mend").lines == ["wrong", "legal", "mend"]


@given(allowed=st.sampled_from(["", "legal"]), hint=st.sampled_from(["", "mend"]))
def test_an_empty_line_is_left_out(legal: str, mend: str) -> None:
    assert DataError("wrong", allowed=legal, hint=mend).lines == [text for text in ("wrong", legal, mend) if text]


@pytest.mark.parametrize("kind", [ContractError, BudgetError, AuditError])
def test_a_refusal_begins_with_its_rule_and_ends_its_first_line_with_the_cause(kind: type[errors.Refusal]) -> None:
    refusal = kind("rule-id", "wrong", where="file.py:3", hint="mend")
    assert refusal.lines == ["[rule-id] wrong (file.py:3)", "mend"]
    assert kind("rule-id", "wrong").lines == ["[rule-id] wrong"]


def test_str_of_an_error_is_what_is_wrong() -> None:
    assert str(HarnessError("wrong", allowed="legal", hint="mend")) == "wrong"


def test_a_near_miss_is_offered_and_a_far_one_is_not() -> None:
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
def test_a_lack_of_memory_is_known_in_all_its_forms_and_behind_other_errors(error: Exception) -> None:
    assert errors.ran_out_of_memory(error)
    behind = ContractError("build-raises", "build raised")
    behind.__cause__ = error
    assert errors.ran_out_of_memory(behind)
    assert not errors.ran_out_of_memory(RuntimeError("shapes cannot be multiplied"))


@pytest.mark.parametrize(
    "error",
    [
        errors.CrashedError("wrong", allowed="legal", hint="mend"),
        errors.BudgetError("parameters", "wrong", excess=7, where="net.py:3", hint="mend"),
    ],
)
def test_an_error_comes_whole_out_of_another_process(error: errors.HarnessError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (again.lines, vars(again), str(again)) == (error.lines, vars(error), str(error))
