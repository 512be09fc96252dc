"""A training step as one CUDA graph: fewer and larger kernels, captured once and replayed.

A kernel of a small network takes longer to begin than to compute, so a step is as fast as its kernels are
few. What a network's layers each do by themselves, `Lean` does once for all of them.
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
    """A step cannot be captured: it waits for the device, or makes tensors whose size depends on values."""


# --- fewer kernels ----------------------------------------------------------------------------------------

_LAYERS = (aten.conv1d.default, aten.conv2d.default, aten.conv2d.padding, aten.linear.default)


class Lean:
    """A network that shares its parameters and buffers with `network`, and gives the same bits with fewer kernels.

    Weights that one layer alone takes are rounded to bfloat16 together, where autocast would round each by itself,
    and so are their gradients widened. Counters of batches, which nothing reads, are raised together.
    """

    def __init__(self, network: GraphModule, rounds: bool) -> None:
        """Prepare steps of a network that is laid out in memory as it will be trained.

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
        """Give each weight the gradient of its rounded copy."""
        pairs = zip(self._weights, self._rounded, strict=True)
        learned = [(weight, rounded, rounded.grad) for weight, rounded in pairs if rounded.grad is not None]
        if not learned:
            return
        wide = [torch.empty_like(gradient, dtype=torch.float32) for _, _, gradient in learned]
        torch._foreach_copy_(wide, [gradient for _, _, gradient in learned])
        for (weight, rounded, _), gradient in zip(learned, wide, strict=True):
            weight.grad, rounded.grad = gradient, None


def _take_counters(network: GraphModule) -> dict[Tensor, int]:
    """Take out of the graph what only counts batches; return each counter and how much a step raises it."""
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
    """Yield the names of parameters that one layer takes as its weight or bias, and nothing else."""
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
    """Write to places that all differ, which torch would sort first, in ten kernels, to be sure of the bits."""
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("default")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)


# --- capture ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def own_randomness(device: torch.device) -> Iterator[torch.Generator]:
    """Let dropout draw, here and in what is captured here, from a generator that belongs to one training."""
    own = torch.Generator(device)
    default = torch.cuda.default_generators[torch.cuda.current_device()]
    kept = default.graphsafe_get_state()
    default.graphsafe_set_state(own)  # dropout knows no other generator
    try:
        yield own
    finally:
        default.graphsafe_set_state(kept)


@contextlib.contextmanager
def own_stream() -> Iterator[torch.cuda.Stream]:
    """Work on the current stream, or on a new one where that is the one all share.

    cuBLAS keeps a workspace a stream: graphs captured on one stream and replayed on several would share it.
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
    """Turn an operator that waits for the device into an error, while no capture is under way that it would spoil.

    Raises:
        Uncapturable: there was one.
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
    """Capture a step, rehearsed before, and return what replays it.

    Raises:
        Uncapturable: it holds what a CUDA graph cannot; the device is left as it was.
    """
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=stream):
            step()
    except RuntimeError as error:
        with contextlib.suppress(RuntimeError):  # where the end of a failed capture raises, torch leaves its pool open
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), graph.pool())
        raise Uncapturable(_reason(error)) from error
    return graph.replay


def _reason(error: RuntimeError) -> str:
    return str(error).strip().partition("\n")[0]
