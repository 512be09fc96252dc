"""A document that no honest file hands over is refused, and nothing in it runs."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import TINY

from harness import plugins, submission
from harness.errors import AuditError, ContractError
from harness.submission import Submission, network_of, reading
from harness.submission.operators import apply, named

Content = dict[str, Any]


@functools.cache
def honest() -> str:
    return submission.submit(TINY, "tiny.py", {"width": 7, "dropout": 0.1}).text


def with_call(content: Content, name: str, args: list[Any]) -> None:
    """Put an operator before the last of the training graph, as its result."""
    nodes = content["graphs"]["train"]
    nodes[-1:] = [["call", name, args, {}], ["out", {"ref": len(nodes) - 1}]]


def with_decimals(content: Content, decimals: Any) -> None:
    content["start"]["steps"].append(["aten.round.decimals", [{"ref": 0}], {"decimals": decimals}, 1])


def with_whole_parameter(content: Content) -> None:
    start = content["start"]
    number = len(start["constants"]) + sum(step[3] for step in start["steps"])
    start["steps"].append(["aten.ones.default", [[2]], {"dtype": {"dtype": "int64"}}, 1])
    start["state"][str(len(content["tensors"]))] = {"ref": number}
    content["tensors"].append([["whole"], "parameter"])


def rename(content: Content, name: Any) -> None:
    content["tensors"][0][0] = [name]


def nest(content: Content, depth: int) -> None:
    nested: list[Any] = []
    for _ in range(depth):
        nested = [nested]
    with_call(content, "aten.relu.default", [nested])


FORGED: dict[str, tuple[str, Callable[[Content], object]]] = {
    "no graphs": ("submission", lambda content: content.pop("graphs")),
    "no start": ("submission", lambda content: content.pop("start")),
    "another version": ("submission", lambda content: content.update(version=99)),
    "graph that is no list": ("submission", lambda content: content["graphs"].update(train={})),
    "graph without images": ("submission", lambda content: content["graphs"].update(train=[["out", {"ref": 0}]])),
    "result that is not there": ("submission", lambda content: content["graphs"]["train"].__setitem__(-1, ["out", 7])),
    "node of another kind": ("submission", lambda content: content["graphs"]["train"].insert(0, ["eval", "1"])),
    "lists within lists": ("submission", lambda content: nest(content, 400)),
    "operator that reads a file": ("submission", lambda content: with_call(content, "aten.from_file.default", ["x"])),
    "operator that is not there": ("submission", lambda content: with_call(content, "aten.relu.file", [])),
    "attribute of torch": ("submission", lambda content: with_call(content, "torch.load", ["x"])),
    "operator that reads a later one": (
        "submission",
        lambda content: with_call(content, "aten.relu.default", [{"ref": 999}]),
    ),
    "endless power": ("submission", lambda content: with_call(content, "operator.pow", [9, 2**40])),
    "endless text": ("submission", lambda content: with_call(content, "operator.mod", ["%999999999d", 1])),
    "endless list": ("submission", lambda content: with_call(content, "operator.mul", [[0], 2**40])),
    "remainder of numbers by zero": ("submission", lambda content: with_call(content, "aten.remainder.int", [-1, 0])),
    "list that is repeated": ("submission", lambda content: with_call(content, "aten.mul.left_t", [[0], 9])),
    "operator on texts": ("submission", lambda content: with_call(content, "aten.to.prim_Device", [{"ref": 0}, None])),
    "lengths of a packed sequence": (
        "submission",
        lambda content: with_call(content, "aten.lstm.data", [*[{"ref": 0}] * 2, [], [], False, 1, 0.0, False, False]),
    ),
    "endless window": ("memory", lambda content: with_call(content, "aten.hamming_window.default", [2**31])),
    "endless combinations": (
        "submission",
        lambda content: with_call(content, "aten.combinations.default", [{"ref": 0}, 9]),
    ),
    "number of decimals that is a text": ("submission", lambda content: with_decimals(content, "x")),
    "start that lacks a tensor": ("submission", lambda content: content["start"]["state"].pop("0")),
    "start with a tensor more": ("submission", lambda content: content["start"]["state"].update(x={"ref": 0})),
    "parameter of whole numbers": ("submission", lambda content: with_whole_parameter(content)),
    "14 GB of ones": ("memory", lambda content: with_call(content, "aten.ones.default", [[1_750_000_000, 2]])),
    "endless range": ("memory", lambda content: with_call(content, "aten.arange.default", [2**40])),
    "copies without end": (
        "memory",
        lambda content: with_call(content, "aten.repeat.default", [{"ref": 0}, [2**30, 1, 1, 1]]),
    ),
    "name that is code": ("name", lambda content: rename(content, 'w", open("x"), "')),
    "name that is a page": ("name", lambda content: rename(content, "<script>")),
    "name of torch's": ("name", lambda content: rename(content, "graph")),
    "name of a method": ("name", lambda content: rename(content, "layer.forward")),
    "name that is a keyword": ("name", lambda content: rename(content, "layer.lambda")),
    "name that Python reads as another": ("name", lambda content: rename(content, "ﬁ")),
    "name of nothing": ("name", lambda content: rename(content, "a..b")),
    "long name": ("name", lambda content: rename(content, "a" * 101)),
    "name that is a number": ("submission", lambda content: rename(content, 7)),
}


@pytest.mark.parametrize("what", FORGED)
def test_forged_document_is_refused(what: str) -> None:
    rule, forge = FORGED[what]
    content = json.loads(honest())
    forge(content)
    with pytest.raises(AuditError) as caught:
        network_of(Submission(json.dumps(content))).train()(torch.zeros(3, 1, 28, 28))
    assert caught.value.rule == rule
    assert all(line.isprintable() for line in caught.value.lines)


def test_error_of_a_document_is_named_and_kept() -> None:
    def raise_an_error() -> None:
        raise KeyError("a\x1b")

    with pytest.raises(AuditError, match=r"malformed: it raises KeyError: 'a\\x1b'") as caught:
        reading()(raise_an_error)()
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(MemoryError), reading():
        raise MemoryError


@pytest.mark.parametrize("text", ["", "[]", "null", "1" * 5_000, "[" * 100_000, '{"version": NaN}'])
def test_text_that_is_no_document_is_refused(text: str) -> None:
    with pytest.raises(AuditError, match="malformed"):
        network_of(Submission(text))


def test_layers_are_shown_without_signs_that_a_page_or_a_terminal_reads() -> None:
    content = json.loads(honest())
    content["layers"] = [["a|b.<i>", "\x1b[2J"]]
    assert Submission(json.dumps(content)).layers == (("a?b.?i?", "??2J"),)


@pytest.mark.parametrize("text", ["\x1b[2J", "a\nb", 7, ["a"] * 9, None])
def test_refusal_from_a_child_is_printable_text(text: object) -> None:
    error = plugins.error_of({"kind": "HarnessError", "message": text, "rule": text, "where": text, "hint": text})
    assert isinstance(error, ContractError)
    assert all(line.isprintable() for line in error.lines)


def test_a_weight_norm_with_norms_of_another_shape_is_refused() -> None:
    weight_norm = torch.ops.aten._weight_norm.default
    apply(weight_norm, (torch.ones(4, 3), torch.ones(4, 1)), {})
    apply(weight_norm, (torch.ones(4, 3), torch.ones(1, 3), 1), {})
    for norms, dim in ((torch.ones(1, 1), 0), (torch.ones(4), 0), (torch.ones(4, 1), 1), (torch.ones(4, 1), -1)):
        with pytest.raises(AuditError, match="weight norm"):
            apply(weight_norm, (torch.ones(4, 3), norms, dim), {})


def test_large_result_is_refused_and_long_slice_is_not() -> None:
    aten, row = torch.ops.aten, torch.ones(1, 2**15)
    assert apply(aten.slice.Tensor, (row, 1, 3, 2**63 - 1), {}).shape == (1, 2**15 - 3)
    with pytest.raises(AuditError, match="1,073,741,824 numbers at once"):
        apply(aten.broadcast_tensors.default, ([row, row.mT],), {})


def test_whole_numbers_divide_by_numbers_other_than_minus_one() -> None:
    whole, by_tensor = torch.full((2,), -(2**63)), torch.full((2,), -1)
    aten = torch.ops.aten
    assert apply(aten.floor_divide.default, (whole, 2), {}).tolist() == [-(2**62)] * 2
    assert apply(aten.div.Tensor, (whole, by_tensor), {}).dtype == torch.float32
    for function, args, kwargs in (
        (aten.floor_divide.default, (whole, -1), {}),
        (aten.remainder.Tensor, (whole, by_tensor), {}),
        (aten.div_.Tensor_mode, (whole, by_tensor), {"rounding_mode": "trunc"}),
        (aten.avg_pool2d.default, (whole.view(1, 1, 2), [1, 1]), {"divisor_override": -1}),
    ):
        with pytest.raises(AuditError, match="whole numbers by -1"):
            apply(function, args, kwargs)


@pytest.mark.parametrize("name", ["mH.default", "divide.Tensor", "arctanh.default", "linalg_slogdet.default"])
def test_other_names_of_allowed_operators_are_allowed(name: str) -> None:
    assert str(named(f"aten.{name}")) == f"aten.{name}"
