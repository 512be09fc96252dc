"""Capture a training step as one CUDA graph, with few kernels.

A kernel of a small network takes longer to launch than to compute, so the time of a step depends on the number of its
kernels. `Lean` does in one kernel, for all layers, what each layer would do in its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from harness.audit import over_the_same_tensors

aten = torch.ops.aten


class Uncapturable(Exception):
    """A step cannot be captured: it waits for the device, or creates tensors whose size depends on values."""


# --- fewer kernels ----------------------------------------------------------------------------------------

_LAYERS = (aten.conv1d.default, aten.conv2d.default, aten.conv2d.padding, aten.linear.default)


class Lean:
    """A copy of `network` over the same parameters and buffers that computes the same bits with fewer kernels.

    Weights that are used by a single layer are rounded to bfloat16 in one kernel, where autocast would use one each.
    Their gradients are converted to float32 in one kernel, too. Batch counters, which nothing reads, are incremented
    in one kernel.
    """

    def __init__(self, network: GraphModule, rounds: bool) -> None:
        """Prepare a network that already has the memory layout in which it is trained.

        Args:
            network: an exported graph in training mode.
            rounds: whether it is called under autocast to bfloat16.
        """
        self._network = over_the_same_tensors(network)
        self._counted = _take_counters(self._network)
        self._weights: list[Tensor] = []
        self._rounded: list[Tensor] = []
        for name in _names_of_weights(self._network) if rounds else ():
            weight = network.get_parameter(name)
            self._weights.append(weight)
            self._rounded.append(nn.Parameter(weight.detach().to(torch.bfloat16), weight.requires_grad))
            layer, _, short = name.rpartition(".")
            setattr(self._network.get_submodule(layer), short, self._rounded[-1])
        self._network.recompile()

    def __call__(self, images: Tensor) -> Tensor:
        """Map images to logits, in training mode."""
        if self._counted:
            torch._foreach_add_([*self._counted], [*self._counted.values()])
        if self._weights:
            with torch.no_grad():
                torch._foreach_copy_(self._rounded, self._weights)
        return self._network(images)

    def widen_gradients(self) -> None:
        """Copy the gradients of the rounded weights to the float32 weights."""
        pairs = zip(self._weights, self._rounded, strict=True)
        learned = [(weight, rounded, rounded.grad) for weight, rounded in pairs if rounded.grad is not None]
        if not learned:
            return
        wide = [torch.empty_like(gradient, dtype=torch.float32) for _, _, gradient in learned]
        torch._foreach_copy_(wide, [gradient for _, _, gradient in learned])
        for (weight, rounded, _), gradient in zip(learned, wide, strict=True):
            weight.grad, rounded.grad = gradient, None


def _take_counters(network: GraphModule) -> dict[Tensor, int]:
    """Remove the batch counters from the graph, and return by how much a step increments each of them."""
    raised = {}
    for node in network.graph.find_nodes(op="get_attr"):
        counting = [node]
        while [*counting[-1].users] and all(_raises(user, counting[-1]) for user in counting[-1].users):
            counting.append(next(iter(counting[-1].users)))
        if len(counting) > 1 and not counting[-1].users:
            raised[network.get_buffer(str(node.target))] = len(counting) - 1
            for unread in reversed(counting):
                network.graph.erase_node(unread)
    return raised


def _raises(user: Node, counter: Node) -> bool:
    return user.target is aten.add_.Tensor and user.args == (counter, 1) and len(counter.users) == 1


def _names_of_weights(network: GraphModule) -> Iterator[str]:
    """Yield the names of parameters that are used once, as the weight or bias of a layer."""
    uses: dict[str, list[tuple[Node, Node]]] = {}
    for node in network.graph.find_nodes(op="get_attr"):
        uses.setdefault(str(node.target), []).extend((user, node) for user in node.users)
    parameters = dict(network.named_parameters())
    for name, found in uses.items():
        if name in parameters and len(found) == 1:
            ((layer, weight),) = found
            if layer.target in _LAYERS and weight in layer.args[1:] and weight is not layer.args[0]:
                yield name


@contextlib.contextmanager
def in_any_order() -> Iterator[None]:
    """Allow writes in any order: to distinct positions they are deterministic, but torch would sort, in ten kernels."""
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("default")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)


# --- capture ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def own_randomness(device: torch.device) -> Iterator[torch.Generator]:
    """Make dropout use a generator of its own, in this block and in graphs captured in it."""
    own = torch.Generator(device)
    default = torch.cuda.default_generators[torch.cuda.current_device()]
    kept = default.graphsafe_get_state()
    default.graphsafe_set_state(own)  # dropout uses the default generator only
    try:
        yield own
    finally:
        default.graphsafe_set_state(kept)


@contextlib.contextmanager
def own_stream() -> Iterator[torch.cuda.Stream]:
    """Use the current stream, or a new one if the current stream is the default, shared one.

    cuBLAS has one workspace per stream: graphs captured on one stream and replayed on several would share it.
    """
    current = torch.cuda.current_stream()
    own = torch.cuda.Stream() if current == torch.cuda.default_stream() else current
    own.wait_stream(current)
    try:
        with torch.cuda.stream(own):
            yield own
    finally:
        current.wait_stream(own)


@contextlib.contextmanager
def forbidding_sync() -> Iterator[None]:
    """Raise an error for an operator that waits for the device, before it would break a capture.

    Raises:
        Uncapturable: there is such an operator.
    """
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    except RuntimeError as error:
        raise Uncapturable(_reason(error)) from error
    finally:
        torch.cuda.set_sync_debug_mode(before)


def capture(step: Callable[[], None], stream: torch.cuda.Stream) -> Callable[[], None]:
    """Capture a step that has run before, and return a function that replays it.

    Raises:
        Uncapturable: it contains operations that a CUDA graph cannot; the state of the device is restored.
    """
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=stream):
            step()
    except RuntimeError as error:
        with contextlib.suppress(RuntimeError):  # torch does not close its memory pool if the end of a capture raises
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), graph.pool())
        raise Uncapturable(_reason(error)) from error
    return graph.replay


def _reason(error: RuntimeError) -> str:
    return str(error).strip().partition("\n")[0]
