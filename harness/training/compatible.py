"""Find a compute mode in which a network trains correctly, by trial steps that are compared with the reference mode."""

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

from harness.audit import cause, short_name, step_size
from harness.errors import ran_out_of_memory
from harness.spec import REFERENCE, ComputeMode
from harness.training.memory_layout import _device, accelerate, accelerate_scoring
from harness.training.trial_input import blob_images, replace_zero_weights, tensors_by_name

aten = torch.ops.aten


# --- is a mode compatible with the network? ----------------------------------------------------------------

NEAR = {torch.float64: 1e-3, torch.float32: 1e-2}
"""Largest difference from the reference, relative to its largest value, by the precision of the comparison.

In float32, rounding moves a few values to the other side of a ReLU, or to another position in max pooling.
"""

TRIED = 12
"""Images in a trial step, or the next number of them that the graph accepts."""

_DROPOUTS = tuple(
    getattr(aten, name).default
    for name in ("dropout", "dropout_", "feature_dropout", "feature_dropout_", "alpha_dropout", "feature_alpha_dropout")
)


@dataclass(frozen=True)
class Choice:
    """How a network is trained.

    Attributes:
        mode: how its steps are computed.
        because: why this is not the wanted mode; empty if it is.
    """

    mode: ComputeMode
    because: str = ""


def choose_compatible(wanted: ComputeMode, train: GraphModule, evaluation: GraphModule, path: str) -> Choice:
    """Choose `wanted`, or the next best compute mode in which a network computes the same and can be trained.

    A network may write through a view that becomes a copy in channels last, or use an operator that does not support
    bfloat16. So each candidate mode takes one step on synthetic images, on a copy of the network, and the step is
    compared with one in the reference mode. The comparison is in float64, or in float32 if an operator does not
    support float64.

    Args:
        wanted: the preferred mode.
        train, evaluation: graphs of the network, with values that do not depend on a seed; they are not modified.
        path: file name for the reason.
    """
    unpadded = replace(wanted, padded=False)
    exact = replace(unpadded, precision="float32")
    candidates = (wanted, exact, *(replace(each, channels_last=False) for each in (unpadded, exact)))
    reasons: list[str] = []
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")  # RMSNorm in bfloat16 is slower
        trial = _Trial(train, evaluation, path)
        for candidate in dict.fromkeys(candidates):
            reason = trial.why_not(candidate)
            if not reason:
                return Choice(candidate, "; ".join(reasons))
            if reason not in reasons:
                reasons.append(reason)
    return Choice(REFERENCE, "; ".join(reasons))


def unrepeatable(chosen: ComputeMode, train: GraphModule) -> tuple[str, ...]:
    """Return torch's names of operators that may not give the same bits each time.

    `compute.set_deterministic` must have been called.

    Args:
        chosen: the mode in which the network will be trained.
        train: the graph that is trained, on the device that trains; it is not modified.
    """
    with torch.random.fork_rng(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _step(train, True, replace(chosen, execution="eager"), blob_images(step_size(train, TRIED), _device(train)))
    named = (re.match(r"(\S+) does not have a deterministic implementation", str(each.message)) for each in caught)
    return tuple(sorted({found[1] for found in named if found}))


class _Trial:
    """Compares trial steps of a network in candidate modes with steps in the reference mode."""

    def __init__(self, train: GraphModule, evaluation: GraphModule, path: str) -> None:
        self._graphs, self._path = ((train, True), (evaluation, False)), path
        self._images = blob_images(step_size(train, TRIED), _device(train))
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
        """Return why a network cannot be trained in a mode or computes something else in it; '' if it can."""
        if not self._expected:  # it fails in any mode; training reports the error
            return "" if candidate == REFERENCE else self._fails
        layout = replace(candidate, precision="float32", execution="eager")
        how = "with channels last" if candidate.channels_last else "in the default layout"
        try:
            for graph, expected in zip(self._graphs, self._expected, strict=True):
                found = _step(*graph, layout, self._exact)
                different = [kind for kind, tensor in expected.items() if _far(found[kind], tensor)]
                if different:
                    node = _first_difference(*graph, layout, self._exact)
                    what = "results" if node else " and ".join(different)
                    return self._say(node, f"gives different {what} {how}") + self._compared
            how = f"in {candidate.precision}"
            _step(*self._graphs[0], replace(candidate, execution="eager"), self._images)
        except _Failed as failed:
            return self._say(failed.node, f"fails {how}", failed)
        return ""

    def _say(self, node: Node | None, what: str, failed: _Failed | None = None) -> str:
        """Return a sentence on an operator, or on the network: its name and line, `what` it does, and an error."""
        name = "the network"
        if node:
            name = short_name(node) or getattr(node.target, "__name__", str(node.target))
            what = f"{what} ({cause(node, self._path)})"
        why = f": {str(failed.__cause__).strip().partition(chr(10))[0]}" if failed else ""
        return f"{name} {what}{why}"


class _Failed(Exception):
    """An operator cannot be computed, or the graph not prepared (`node` is None); the cause is the original error."""

    def __init__(self, node: Node | None) -> None:
        super().__init__(str(node))
        self.node = node


class _Traced(Interpreter):
    """Runs a graph one operator after the other; `at` is the current one, also in the backward pass."""

    at: Node

    def run_node(self, n: Node) -> Any:
        self.at = n
        result = super().run_node(n)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.grad_fn is not None:
                tensor.grad_fn.register_prehook(functools.partial(self._in_backward, n))
        return result

    def _in_backward(self, node: Node, _: object) -> None:
        self.at = node


def _step(graph: GraphModule, learns: bool, layout: ComputeMode, images: Tensor) -> dict[str, Tensor]:
    """Return outputs, gradients and updated buffers of one step of a copy, in the images' precision, without dropout.

    Raises:
        _Failed: an operator cannot be computed in this way.
    """
    watched: _Traced | None = None
    try:
        copied, runs = _prepared(graph, learns, layout, images.dtype)
        watched = _Traced(runs)
        watched.extra_traceback = False
        with torch.set_grad_enabled(learns):
            with torch.autocast(images.device.type, torch.bfloat16, enabled=layout.precision == "bfloat16"):
                outputs = watched.run(images)
            if learns:
                outputs.to(images.dtype).square().sum().backward()
    except Exception as error:  # operators raise many types
        if ran_out_of_memory(error):
            raise
        raise _Failed(watched.at if watched else None) from error
    found = {
        "outputs": [outputs.detach()],
        "gradients": [torch.zeros_like(p) if p.grad is None else p.grad for p in copied.parameters()],
        "statistics": [_in_precision(buffer, torch.float64) for buffer in copied.buffers()],
    }
    return {kind: torch.cat([each.flatten() for each in tensors]) for kind, tensors in found.items() if tensors}


def _prepared(
    graph: GraphModule, learns: bool, layout: ComputeMode, precision: torch.dtype
) -> tuple[GraphModule, GraphModule]:
    """Return a copy of a graph for a trial step, and the part of it that maps images to logits, in the given mode."""
    copied = copy.deepcopy(graph)
    copied._apply(lambda tensor: _in_precision(tensor, precision) if _is_inexact(tensor) else tensor)
    for name, tensor in tensors_by_name(copied).items():
        if tensor.dtype in (torch.float32, torch.complex64):  # a constant
            layer, _, short = name.rpartition(".")
            setattr(copied.get_submodule(layer), short, _in_precision(tensor, precision))
    replace_zero_weights(copied)
    for node in copied.graph.nodes:
        if node.target in _DROPOUTS:
            node.update_arg(1, 0.0)
        if precision == torch.float64:  # dtypes written by the plug-in or by the export
            node.args, node.kwargs = map_aggregate((node.args, node.kwargs), _widened)
    copied.recompile()
    torch.manual_seed(0)
    if learns:
        accelerate(copied, layout)
        return copied, copied
    scoring = accelerate_scoring(copied, layout)
    scoring.refresh()
    return copied, scoring.network


def _is_inexact(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _in_precision(tensor: Tensor, precision: torch.dtype) -> Tensor:
    return tensor.to(precision.to_complex() if tensor.is_complex() else precision)


def _widened(argument: Any) -> Any:
    if argument is torch.float32:
        return torch.float64
    return torch.complex128 if argument is torch.complex64 else argument


def _far(found: Tensor, expected: Tensor) -> bool:
    if not expected.isfinite().all():
        return False  # not finite in the reference mode, either
    near = NEAR[torch.float32 if torch.float32 in (found.dtype.to_real(), expected.dtype.to_real()) else torch.float64]
    return not bool((found - expected).abs().max() <= near * expected.abs().max())  # also True for a NaN


# --- which operator differs ----------------------------------------------------------------------------------


class _Recorder(_Traced):
    """Records the result of each operator and, after an operator that writes in place, all tensors."""

    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph)
        self.recorded: dict[str, dict[str, Tensor]] = {}

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        writes = isinstance(n.target, torch._ops.OpOverload) and n.target._schema.is_mutable
        there = {**self.env, n: result} if writes else {n: result}
        self.recorded[n.name] = {
            node.name: value.detach().clone() for node, value in there.items() if isinstance(value, Tensor)
        }
        return result


def _first_difference(graph: GraphModule, learns: bool, layout: ComputeMode, images: Tensor) -> Node | None:
    """Return the first operator in the forward pass after which a tensor differs from the reference mode."""
    recorded = []
    for how in (REFERENCE, layout):
        recorder = _Recorder(_prepared(graph, learns, how, images.dtype)[1])
        with torch.set_grad_enabled(learns):
            recorder.run(images)
        recorded.append(recorder.recorded)
    reference, candidate = recorded
    for node in graph.graph.nodes:
        found = candidate.get(node.name, {})
        for name, tensor in reference.get(node.name, {}).items():
            other = found.get(name)
            if other is not None and other.ndim == tensor.ndim > 1:
                other = other[:, : tensor.shape[1]]  # without padded channels
            if other is not None and other.shape == tensor.shape and _is_inexact(tensor) and _far(other, tensor):
                return node
    return None
