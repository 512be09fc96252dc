"""Which way of computing a network survives: trial steps beside the reference."""

from __future__ import annotations

import copy
import functools
import re
import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.node import map_aggregate
from torch.utils._pytree import tree_leaves

from harness.audit import cause, short_name
from harness.errors import ran_out_of_memory
from harness.spec import REFERENCE, ComputeMode
from harness.training.memory_layout import _device, accelerate, accelerate_scoring
from harness.training.trial_input import blob_images, replace_zero_weights, tensors_by_name

aten = torch.ops.aten


# --- does it suit the network? ----------------------------------------------------------------------------

NEAR = {torch.float64: 1e-3, torch.float32: 1e-2}
"""How far a result may lie from the plain one, against the largest of its kind, by the precision of both.

In float32, rounding takes a few numbers to the other side of a ReLU, or to another place of a max pooling.
"""

TRIED = 12
"""Images in a trial step."""

_DROPOUTS = tuple(
    getattr(aten, name).default
    for name in ("dropout", "dropout_", "feature_dropout", "feature_dropout_", "alpha_dropout", "feature_alpha_dropout")
)


@dataclass(frozen=True)
class Choice:
    """How a network is trained.

    Attributes:
        mode: how its steps are computed.
        because: why that is not how they should have been; empty where it is.
    """

    mode: ComputeMode
    because: str = ""


def choose_compatible(wanted: ComputeMode, train: GraphModule, evaluation: GraphModule, path: str) -> Choice:
    """Choose `wanted`, or the next best arithmetic by which a network is the same network and can be trained.

    A network may write through a view that channels last are no view of, or use an operator that does not take
    bfloat16. So each candidate takes one step on made-up images, on a copy, beside a plain one. They are compared in
    float64, or in float32 where an operator does not take that.

    Args:
        train, evaluation: graphs of the network with numbers that no seed has a part in; untouched.
        path: file name for the reason.
    """
    unpadded = replace(wanted, padded=False)
    exact = replace(unpadded, precision="float32")
    candidates = (wanted, exact, *(replace(each, channels_last=False) for each in (unpadded, exact)))
    reasons: list[str] = []
    with torch.random.fork_rng():
        trial = _Trial(train, evaluation, path)
        for candidate in dict.fromkeys(candidates):
            reason = trial.why_not(candidate)
            if not reason:
                return Choice(candidate, "; ".join(reasons))
            if reason not in reasons:
                reasons.append(reason)
    return Choice(REFERENCE, "; ".join(reasons))


def unrepeatable(chosen: ComputeMode, train: GraphModule) -> tuple[str, ...]:
    """Return the operators that may give other bits each time, as torch names them; after `compute.set_deterministic`.

    Args:
        chosen: how the network will be trained.
        train: the graph that is trained, on the device that trains; untouched.
    """
    with torch.random.fork_rng(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        _step(train, True, replace(chosen, execution="eager"), blob_images(TRIED, _device(train)))
    named = (re.match(r"(\S+) does not have a deterministic implementation", str(each.message)) for each in said)
    return tuple(sorted({found[1] for found in named if found}))


class _Trial:
    """Trial steps of a network by some arithmetic, beside a plain one."""

    def __init__(self, train: GraphModule, evaluation: GraphModule, path: str) -> None:
        self._graphs, self._path = ((train, True), (evaluation, False)), path
        self._images = blob_images(TRIED, _device(train))
        self._compared, self._fails = "", ""
        self._expected: list[dict[str, Tensor]] = []
        for kind in (torch.float64, torch.float32):
            self._exact = self._images.to(kind)
            try:
                self._expected = [_step(*graph, REFERENCE, self._exact) for graph in self._graphs]
                break
            except _Failed as failed:
                self._fails = self._say(failed.node, "fails", failed)
                self._compared = f" (compared in float32: {self._say(failed.node, 'fails in float64')})"

    def why_not(self, candidate: ComputeMode) -> str:
        """Say why a network cannot be trained by an arithmetic, or is another network by it; or return nothing."""
        if not self._expected:  # it says so itself when it is trained
            return "" if candidate == REFERENCE else self._fails
        layout = replace(candidate, precision="float32", execution="eager")
        how = "channels last" if candidate.channels_last else "laid out anew"
        try:
            for graph, expected in zip(self._graphs, self._expected, strict=True):
                found = _step(*graph, layout, self._exact)
                others = [kind for kind, tensor in expected.items() if _far(found[kind], tensor)]
                if others:
                    node = _first_other(*graph, layout, self._exact)
                    what = "results" if node else " and ".join(others)
                    return self._say(node, f"gives other {what} {how}") + self._compared
            how = candidate.precision
            _step(*self._graphs[0], replace(candidate, execution="eager"), self._images)
        except _Failed as failed:
            return self._say(failed.node, f"fails {'in ' * (how == candidate.precision)}{how}", failed)
        return ""

    def _say(self, node: Node | None, what: str, failed: _Failed | None = None) -> str:
        """Say what an operator, or else the network, does: by name and line, with the first line of an error."""
        name = "the network"
        if node:
            name = short_name(node) or getattr(node.target, "__name__", str(node.target))
            what = f"{what} ({cause(node, self._path)})"
        why = f": {str(failed.__cause__).strip().partition(chr(10))[0]}" if failed else ""
        return f"{name} {what}{why}"


class _Failed(Exception):
    """An operator that cannot be computed, or none where laying out fails; its own error is the cause."""

    def __init__(self, node: Node | None) -> None:
        super().__init__(str(node))
        self.node = node


class _Traced(Interpreter):
    """Runs a graph one operator after the other, and knows which is at work, also on the way back."""

    at: Node

    def run_node(self, n: Node) -> Any:
        self.at = n
        result = super().run_node(n)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.grad_fn is not None:
                tensor.grad_fn.register_prehook(functools.partial(self._goes_back, n))
        return result

    def _goes_back(self, node: Node, _: object) -> None:
        self.at = node


def _step(graph: GraphModule, learns: bool, layout: ComputeMode, images: Tensor) -> dict[str, Tensor]:
    """Return answers, gradients and moved statistics of one step of a copy in the images' precision, without dropout.

    Raises:
        _Failed: an operator cannot be computed so.
    """
    watched: _Traced | None = None
    try:
        copied, runs = _prepared(graph, learns, layout, images.dtype)
        watched = _Traced(runs)
        watched.extra_traceback = False
        with torch.set_grad_enabled(learns):
            with torch.autocast(images.device.type, torch.bfloat16, enabled=layout.precision == "bfloat16"):
                answers = watched.run(images)
            if learns:
                answers.to(images.dtype).square().sum().backward()
    except Exception as error:  # whatever an operator says that cannot be computed so
        if ran_out_of_memory(error):
            raise
        raise _Failed(watched.at if watched else None) from error
    found = {
        "answers": [answers.detach()],
        "gradients": [torch.zeros_like(p) if p.grad is None else p.grad for p in copied.parameters()],
        "statistics": [buffer.double() for buffer in copied.buffers()],
    }
    return {kind: torch.cat([each.flatten() for each in tensors]) for kind, tensors in found.items() if tensors}


def _prepared(
    graph: GraphModule, learns: bool, layout: ComputeMode, precision: torch.dtype
) -> tuple[GraphModule, GraphModule]:
    """Return a copy of a graph for a trial step, and what of it maps images to answers, laid out."""
    copied = copy.deepcopy(graph).to(precision)
    for name, tensor in tensors_by_name(copied).items():
        if tensor.dtype == torch.float32:  # a table
            layer, _, short = name.rpartition(".")
            setattr(copied.get_submodule(layer), short, tensor.to(precision))
    replace_zero_weights(copied)
    for node in copied.graph.nodes:
        if node.target in _DROPOUTS:
            node.update_arg(1, 0.0)
        if precision == torch.float64:  # it says float32 where the plug-in did, or where the export noted what it saw
            node.args, node.kwargs = map_aggregate((node.args, node.kwargs), _widened)
    copied.recompile()
    torch.manual_seed(0)
    if learns:
        accelerate(copied, layout)
        return copied, copied
    scoring = accelerate_scoring(copied, layout)
    scoring.refresh()
    return copied, scoring.network


def _widened(argument: Any) -> Any:
    return torch.float64 if argument is torch.float32 else argument


def _far(found: Tensor, expected: Tensor) -> bool:
    if not expected.isfinite().all():
        return False  # a broken network is not the layout's fault
    near = NEAR[torch.float32 if torch.float32 in (found.dtype, expected.dtype) else torch.float64]
    return not bool((found - expected).abs().max() <= near * expected.abs().max())  # a NaN is far from any number


# --- which operator it is -----------------------------------------------------------------------------------


class _Noting(_Traced):
    """Keeps what each operator returns, and after one that writes all that is there."""

    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph)
        self.noted: dict[str, dict[str, Tensor]] = {}

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        writes = isinstance(n.target, torch._ops.OpOverload) and n.target._schema.is_mutable
        there = {**self.env, n: result} if writes else {n: result}
        self.noted[n.name] = {
            node.name: value.detach().clone() for node, value in there.items() if isinstance(value, Tensor)
        }
        return result


def _first_other(graph: GraphModule, learns: bool, layout: ComputeMode, images: Tensor) -> Node | None:
    """Return the first operator of a graph after which a tensor is another one than plainly, going forward."""
    noted = []
    for how in (REFERENCE, layout):
        noting = _Noting(_prepared(graph, learns, how, images.dtype)[1])
        with torch.set_grad_enabled(learns):
            noting.run(images)
        noted.append(noting.noted)
    plainly, laid_out = noted
    for node in graph.graph.nodes:
        found = laid_out.get(node.name, {})
        for name, tensor in plainly.get(node.name, {}).items():
            other = found.get(name)
            if other is not None and other.ndim == tensor.ndim > 1:
                other = other[:, : tensor.shape[1]]  # without padded channels
            if other is not None and other.shape == tensor.shape and tensor.is_floating_point() and _far(other, tensor):
                return node
    return None
