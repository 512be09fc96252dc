"""The audit: what a network must be before it is trained, and the budget it is held against.

A network is exported twice with `torch.export`, in training and in evaluation mode. What is counted is
what these two graphs hold, and they alone are then trained and scored: after the audit none of the
plug-in's Python runs any more, so a number that is not in the ledger cannot help the score. Every
refusal names its rule, the line that causes it and the mend.

A network is audited on the CPU, whatever trains it, so that its ledger is the same on every machine. One
audit, of a network from a seed of its own, serves every seed: `Audit.graphs` fills the two graphs with the numbers
of a network built anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import math
import secrets
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule, Node
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.errors import AuditError, BudgetError, ContractError, UsageError, mend_devices
from harness.graph import cause, on_device, operators, where
from harness.ledger import Ledger, count, refuse_odd_tensor
from harness.spec import Budget, Recipe

TOLERANCE = 1e-4
"""How far two answers may lie apart and still be the same answer (of logits of ordinary size)."""

MOST_OPERATORS = 2_000
"""Most operators in a graph; one that takes lists counts once for each of their entries. Shapes, strides,
indices and the order of a list are free, so each could hide a few bits; this bounds them. A 30-layer
network has about 400."""

FREE_START = 1_000
"""Most numbers that may start as a pattern of the author's own: filters, positions, a cosine basis. More
are weights that were trained before the first epoch."""

MOST_CHANGED = 2
"""Most scored images that may be given another class in other company: so many that lie on the edge by rounding."""

CROWD = 1_000
"""Images in the largest batch the audit asks about; as many as are scored at a time on a GPU."""

MOST_IMAGES = 65_535
"""Images in the largest batch that a graph is exported for: up to so many cuDNN normalises, and any recipe trains."""

GUARDED_METHODS = (
    "parameters", "named_parameters", "buffers", "named_buffers", "modules", "named_modules", "children",
    "named_children", "state_dict", "load_state_dict", "register_parameter", "register_buffer", "_apply",
    "__call__", "__getattr__", "__getattribute__", "__setattr__",
)  # fmt: skip
"""Methods of ``nn.Module`` by which the harness and torch find a network's numbers."""


@dataclass(frozen=True, eq=False)
class Graphs:
    """The two graphs of an audited network, with numbers of their own on one device: training one moves the other."""

    train: GraphModule
    evaluation: GraphModule


@dataclass(frozen=True, eq=False)
class Audit:
    """A network that passed, as the two graphs that are trained and scored, and its ledger.

    It can be pickled, for another process of the same user.
    """

    ledger: Ledger
    train: ExportedProgram
    evaluation: ExportedProgram
    calls: str
    """A digest of the operators that the network calls, with the numbers that its code gives them."""

    @property
    def serves_every_seed(self) -> bool:
        """Whether all numbers of the graphs are parameters and buffers: a constant may be drawn for one seed alone."""
        programs = (self.train, self.evaluation)
        return not any(program.graph_signature.inputs_to_lifted_tensor_constants for program in programs)

    def graphs(self, network: nn.Module, device: torch.device) -> Graphs:
        """Return the two graphs on `device`, with copies of the numbers of `network`, which passed `refuse_another`."""
        numbers = _copies(network, device)
        graphs = (on_device(program.module(), device) for program in (self.train, self.evaluation))
        return Graphs(*(_filled(graph, numbers) for graph in graphs))

    def own_graphs(self, device: torch.device) -> Graphs:
        """Return the two graphs on `device`, with copies of the numbers of the network that was audited."""
        return self.graphs(self.train.module(), device)

    def __reduce__(self) -> tuple[Callable[..., Self], tuple[Ledger, bytes, bytes, str]]:
        return type(self)._loaded, (self.ledger, _saved(self.train), _saved(self.evaluation), self.calls)

    @classmethod
    def _loaded(cls, ledger: Ledger, train: bytes, evaluation: bytes, calls: str) -> Self:
        programs = [torch.export.load(io.BytesIO(program)) for program in (train, evaluation)]
        return cls(ledger, programs[0], programs[1], calls)


def _saved(program: ExportedProgram) -> bytes:
    stream = io.BytesIO()
    torch.export.save(program, stream)
    return stream.getvalue()


def _copies(network: nn.Module, device: torch.device) -> dict[str, Tensor]:
    """Copy every parameter and buffer, by all of its names; what is one tensor there is one tensor here."""
    found: dict[str, Tensor] = {}
    made: dict[int, Tensor] = {}
    for named in (network.named_parameters(remove_duplicate=False), network.named_buffers(remove_duplicate=False)):
        for name, tensor in named:
            if id(tensor) not in made:
                copied = tensor.detach().to(device, copy=True)
                is_parameter = isinstance(tensor, nn.Parameter)
                made[id(tensor)] = nn.Parameter(copied, tensor.requires_grad) if is_parameter else copied
            found[name] = made[id(tensor)]
    return found


def _filled(graph: GraphModule, numbers: Mapping[str, Tensor]) -> GraphModule:
    own = (*graph.named_parameters(remove_duplicate=False), *graph.named_buffers(remove_duplicate=False))
    for name, _ in own:
        if name in numbers:  # what a graph holds beside them are its constants
            layer, _, short = name.rpartition(".")
            holder = graph.get_submodule(layer)
            setattr(holder, short, numbers[name])
            holder._non_persistent_buffers_set.discard(short)  # a run that goes on needs each of them
    return graph


def audit(network: nn.Module, path: str) -> Audit:
    """Export `network`, built by the plug-in at `path`, and count what it stores.

    Args:
        network: maps (N, 1, 28, 28) float images to (N, 10) logits; on the CPU.
        path: file name for messages.

    Raises:
        ContractError: a wrong output, or a `forward` that raises.
        AuditError: the network hides state, draws lots, changes when scored, or cannot be exported.
    """
    _refuse_odd(network, path)
    _probe(network, path)
    train = _export(network, True, path)
    _refuse_foreign_operators(train, path)
    evaluation = _export(network, False, path)
    _refuse_foreign_operators(evaluation, path)
    _refuse_change_at_evaluation(evaluation, path)
    found = Audit(count(network, train, evaluation, path), train, evaluation, _calls(network))
    _refuse_unfaithful(network, train.module(), evaluation.module(), path)
    scored, images = evaluation.module(), _images(12)
    refuse_batch_dependence(scored, images, path)
    for direction in (1, -1):  # with every gate that starts near zero opened and closed
        with _nudged(network, direction):
            refuse_batch_dependence(scored, images, path, crowd=100)
    return found


def refuse_other_audit(found: Audit, other: Audit, path: str) -> None:
    """Refuse a network with a table of constants, audited as `other`, if it is another one than the one of `found`.

    Raises:
        AuditError: it stores other numbers, or calls other operators.
    """
    forms = [
        (each.calls, [replace(entry, name=entry.name.partition("#")[0]) for entry in each.ledger.entries])  # no digests
        for each in (found, other)
    ]
    if forms[0] != forms[1]:
        raise _another_network(path)


def refuse_another(found: Audit, network: nn.Module, path: str) -> None:
    """Refuse a `network`, built anew from the file and knobs of an audit that serves every seed, if it is another one.

    Its graphs may differ where its ledger does not: a file can draw an activation, a stride or a dropout rate by lot.

    Raises:
        AuditError: it stores other numbers, hides some, computes otherwise, or has a weight that is not finite.
    """
    _refuse_odd(network, path)
    if count(network, found.train, found.evaluation, path) != found.ledger or _calls(network) != found.calls:
        raise _another_network(path)
    for name, parameter in network.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise AuditError(
                "not-finite",
                f"The network is built with a {name} that is not finite.",
                where=path,
                legal="The weights of every seed are finite.",
                mend="Look for a division by zero, or a power, where build draws them.",
            )
    numbers = dict((*network.named_parameters(remove_duplicate=False), *network.named_buffers(remove_duplicate=False)))
    train, evaluation = (_filled(program.module(), numbers) for program in (found.train, found.evaluation))
    if _gap(network, train, evaluation, _images(7), path) > TOLERANCE:
        raise _another_network(path)


def enforce(ledger: Ledger, recipe: Recipe, budget: Budget) -> None:
    """Hold a network and its recipe against the budget.

    Raises:
        BudgetError: too many stored numbers, or too many epochs.
    """
    if ledger.parameters > budget.parameters:
        largest = sorted((entry for entry in ledger.entries if entry.counted), key=lambda entry: -entry.numbers)[:3]
        raise BudgetError(
            "parameters",
            f"The network stores {ledger.parameters:,} numbers; the budget is {budget.parameters:,}.",
            legal="Largest: " + "; ".join(f"{e.layer}.{e.name} ({e.kind}) {e.numbers:,}" for e in largest) + ".",
            mend="Make it narrower, or take layers out; `python -m harness check` shows the layer table.",
            excess=ledger.parameters - budget.parameters,
        )
    if recipe.epochs > budget.epochs:
        raise BudgetError(
            "epochs",
            f"The recipe trains for {recipe.epochs} epochs; the budget is {budget.epochs}.",
            legal=f"Legal: 1 to {budget.epochs} epochs.",
            mend=f"Set epochs to {budget.epochs} or fewer.",
            excess=recipe.epochs - budget.epochs,
        )


def refuse_trained_start(network: nn.Module, found: Audit, build: Callable[[], nn.Module], path: str) -> None:
    """Refuse a network whose numbers hardly depend on the seed, by building it once more from a seed drawn by lot.

    Epochs trained at home would not show otherwise. What is constant (zeros, ones, an identity but for
    its diagonal) is no pattern. Weights shuffled from build to build, or kept for the seeds that a run
    begins with, are not recognised.

    Args:
        network: the network that is to be trained, before its first step.
        found: its audit.
        build: makes it again, from torch's global random numbers.
        path: file name for messages.

    Raises:
        AuditError: more than `FREE_START` numbers start as a pattern, or the second network is another one.
    """
    with torch.random.fork_rng():
        torch.manual_seed(secrets.randbits(63))  # a seed that no plug-in can know
        again = build()
        calls = _calls(again)
    first, second = (
        {name: tensor.detach() for name, tensor in (*made.named_parameters(), *made.named_buffers())}
        for made in (network, again)
    )
    shapes = [{name: tensor.shape for name, tensor in made.items()} for made in (first, second)]
    if shapes[0] != shapes[1] or calls != found.calls:
        raise _another_network(path)
    constants = found.evaluation.constants.items()  # among them are buffers that are not saved with the network
    tables = [tensor for name, tensor in constants if isinstance(tensor, Tensor) and name not in first]
    fixed = sum(_alike(tensor, tensor) for tensor in tables)
    fixed += sum(_alike(first[name], second[name]) for name in first)
    if fixed > FREE_START:
        raise AuditError(
            "trained-start",
            f"{fixed:,} numbers start (nearly) the same whatever the seed.",
            where=path,
            legal=f"Weights start by lot or constant; up to {FREE_START:,} may start as a pattern of your own.",
            mend="Draw them with torch.nn.init or torch.randn, without manual_seed; all training happens here.",
        )


def _another_network(path: str) -> AuditError:
    return AuditError(
        "another-network",
        "Built again with the same knobs, the network has other parameters, or computes otherwise.",
        where=path,
        legal="The same knobs build the same layers; only their first numbers are drawn by lot.",
        mend="Take lots and counters out of build, but for weights.",
    )


def _alike(first: Tensor, second: Tensor) -> int:
    """Count the numbers in a tensor that follow a pattern both times; the most frequent number is background.

    By Spearman's rank correlation, which loud noise in a few places does not hide.
    """
    first, second = (torch.view_as_real(t) if t.is_complex() else t.double() for t in (first, second))
    if first.numel() == 0:
        return 0
    telling = first != first.flatten().mode().values
    if telling.sum() < 2:
        return 0
    ranks = [values[telling].argsort().argsort().double() for values in (first, second)]
    return int(telling.sum()) if torch.corrcoef(torch.stack(ranks))[0, 1].abs() > 0.3 else 0


def refuse_changed_classes(answers: Tensor, others: Tensor, company: str, path: str) -> None:
    """Refuse a network whose scored `answers` name other classes than `others`, given in other `company`; both (N, 10).

    However the answers are scaled or shifted, it is the class that is scored.

    Raises:
        AuditError: for more than `MOST_CHANGED` images.
    """
    changed = int((answers.argmax(1) != others.argmax(1)).sum())
    if changed > MOST_CHANGED:
        raise AuditError(
            "batch",
            f"The network gives {changed:,} of {len(answers):,} images another class when they are asked {company}.",
            where=path,
            legal="An answer depends on its own image alone.",
            mend="Look for statistics over the batch axis: batch norm without running statistics, mean over dim 0.",
        )


# --- the plug-in's own Python, run for the last time -------------------------------------------------


def _refuse_odd(network: nn.Module, path: str) -> None:
    """Refuse what would keep the harness from finding a network's numbers."""
    _refuse_overrides(network, path)
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        refuse_odd_tensor(name, tensor, path)
    _refuse_shared_memory(network, path)


def _refuse_shared_memory(network: nn.Module, path: str) -> None:
    """Refuse a weight whose memory holds other numbers too: copied to where they are trained, the two would part."""
    numbers: list[tuple[str, Tensor]] = [*network.named_parameters(), *network.named_buffers()]
    for layer, module in network.named_modules():
        held = ((f"{layer}.{name}".lstrip("."), value) for name, value in vars(module).items())
        numbers += [(name, value) for name, value in held if isinstance(value, Tensor)]
    spans = [(*_span(tensor), name, tensor) for name, tensor in numbers]
    for start, end, weight, parameter in spans:
        if not isinstance(parameter, nn.Parameter):
            continue
        for other_start, other_end, name, tensor in spans:
            if tensor is not parameter and other_start < end and start < other_end:
                raise AuditError(
                    "shared-memory",
                    f"{name} lies in the memory of the weight {weight}, but is another tensor.",
                    where=path,
                    legal="Layers share a weight by holding the same nn.Parameter: `self.b.weight = self.a.weight`.",
                    mend="Share the nn.Parameter itself, or take a copy: clone().",
                )


def _span(tensor: Tensor) -> tuple[int, int]:
    """Return the addresses that a tensor's numbers lie between."""
    if tensor.layout != torch.strided or not tensor.numel():
        return 0, 0
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()


def _refuse_overrides(network: nn.Module, path: str) -> None:
    for name, module in nn.Module.named_modules(network):
        for method in GUARDED_METHODS:
            owner = next(kind for kind in type(module).__mro__ if method in kind.__dict__)
            if method in module.__dict__ or not _is_torchs_own(owner):
                raise AuditError(
                    "override",
                    f"{name or type(module).__name__} overrides nn.Module.{method}.",
                    where=path,
                    legal="The harness finds a network's numbers through nn.Module's own methods.",
                    mend=f"Take the override of {method} out.",
                )


def _is_torchs_own(kind: type) -> bool:
    """Whether `kind` is the class its module and name say, and torch's or Python's."""
    home = sys.modules.get(kind.__module__)
    named_so = kind.__module__.startswith(("torch.", "builtins"))
    return named_so and getattr(home, kind.__qualname__, None) is kind


def _images(count: int) -> Tensor:
    """Made-up images (N, 1, 28, 28), in the range of normalised digits."""
    generator = torch.Generator().manual_seed(count)
    return torch.rand(count, 1, 28, 28, generator=generator).mul(3.2).sub(0.4)


def _probe(network: nn.Module, path: str) -> None:
    """Run the plug-in's `forward` in both modes and check what it returns and what it learns."""
    made: list[str] = []

    def note(module: nn.Module, name: str, _parameter: object) -> None:
        lines = [frame for frame in traceback.extract_stack() if frame.filename == path]
        made.append(f"{path}:{lines[-1].lineno}" if lines else path)

    hook = register_module_parameter_registration_hook(note)
    try:
        for training in (False, True):
            answers = _answer(network, training, path)
    finally:
        hook.remove()
    if made:
        raise AuditError(
            "parameter-in-forward",
            "forward makes a parameter.",
            where=made[0],
            legal="A network's parameters are made once, in build.",
            mend="Make the layer in __init__, or delete it if nothing uses it.",
        )
    if not answers.requires_grad:
        raise AuditError(
            "untrainable",
            "No parameter of the network would learn: its answers in training carry no gradient.",
            where=path,
            legal="At least one nn.Parameter that requires a gradient takes part in every answer.",
            mend="Take torch.no_grad, detach() or requires_grad=False out.",
        )
    registered = {id(parameter) for parameter in network.parameters()}
    for leaf in _leaves(answers):
        if id(leaf) not in registered:
            raise AuditError(
                "unregistered",
                f"forward uses a trainable tensor of shape {tuple(leaf.shape)} that the network does not register.",
                where=path,
                legal="Layers live in attributes, nn.ModuleList or nn.Sequential; tensors in nn.Parameter attributes.",
                mend="A plain Python list or dict of layers hides them: use nn.ModuleList or nn.ModuleDict.",
            )


def _answer(network: nn.Module, training: bool, path: str) -> Tensor:
    images = _images(6)
    network.train(training)
    try:
        with _kept(network), _quiet():
            answers = network(images)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        said = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise ContractError(
            "forward-raises",
            f"forward raised {said}{_layer_behind(error, network)}",
            where=where("".join(traceback.format_exception(error)), path),
            legal="forward takes (N, 1, 28, 28) float images and returns (N, 10) logits.",
            mend=mend_devices(said) or "Mend that line or that layer.",
        ) from error
    wrong = ""
    if not isinstance(answers, Tensor):
        wrong = f"a {type(answers).__name__}"
    elif tuple(answers.shape) != (len(images), 10):
        wrong = f"shape {tuple(answers.shape)} for {len(images)} images"
    elif answers.device.type != "cpu":
        wrong = f"a tensor on the device {answers.device}"
    elif answers.dtype != torch.float32:
        wrong = f"{answers.dtype}"
    elif not bool(answers.isfinite().all()):
        wrong = "numbers that are not finite"
    if wrong:
        raise ContractError(
            "output",
            f"forward returns {wrong}.",
            where=path,
            legal="Legal: a float32 tensor of shape (N, 10) for (N, 1, 28, 28) images.",
            mend=mend_devices(wrong) or "Mend the last layer.",
        )
    return answers


class _Noting(TorchDispatchMode):
    """Notes each operator that is called, and the numbers and words among its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        written = [each for each in tree_leaves((args, kwargs)) if isinstance(each, (bool, complex, float, int, str))]
        self.noted.append(f"{func} {written}")
        return func(*args, **(kwargs or {}))


def _calls(network: nn.Module) -> str:
    """Return a digest of what a network calls in both modes, in its order: with another one it is another network."""
    with torch.random.fork_rng(), _kept(network), _quiet(), torch.no_grad(), _Noting() as calls:
        for training in (False, True):
            network.train(training)
            network(_images(6))
    return hashlib.sha256("\n".join(calls.noted).encode()).hexdigest()


def _layer_behind(error: BaseException, network: nn.Module) -> str:
    """Return `` in layer 3 (Linear)`` for the innermost layer that led to `error`, or an empty string."""
    names = {id(module): name for name, module in network.named_modules()}
    for frame, _line in reversed(list(traceback.walk_tb(error.__traceback__))):
        module = frame.f_locals.get("self")
        if isinstance(module, nn.Module) and names.get(id(module)):
            return f" in layer {names[id(module)]} ({type(module).__name__})"
    return ""


@contextlib.contextmanager
def _kept(network: nn.Module) -> Iterator[None]:
    """Put every parameter and buffer back as it was."""
    before = [(tensor, tensor.detach().clone()) for tensor in (*network.parameters(), *network.buffers())]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, values in before:
                tensor.copy_(values)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's warnings and printed graphs from the user: what matters is in the refusal."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        lost = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(lost), contextlib.redirect_stderr(lost):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _leaves(answers: Tensor) -> Iterator[Tensor]:
    """Yield the tensors that gradients of `answers` would reach."""
    todo: list[Any] = [answers.grad_fn]
    seen: set[Any] = {None}
    while todo:
        function = todo.pop()
        if function in seen:
            continue
        seen.add(function)
        if hasattr(function, "variable"):
            yield function.variable
        todo.extend(parent for parent, _ in function.next_functions)


# --- export ---------------------------------------------------------------------------------------------


def _export(network: nn.Module, training: bool, path: str) -> ExportedProgram:
    network.train(training)
    try:
        with _quiet():
            # A dynamic batch: a branch on the number of images cannot hide a second network.
            batch = Dim("batch", min=2, max=MOST_IMAGES)
            program = torch.export.export(network, (_images(3),), dynamic_shapes=({0: batch},))
    except OSError as error:
        raise UsageError(
            f"torch cannot write {error.filename}: {error.strerror}.",
            mend="Set TORCHINDUCTOR_CACHE_DIR to a folder that you may write to.",
        ) from error
    except Exception as error:  # torch.export raises many types, none documented
        mode = "training" if training else "evaluation"
        text = "".join(traceback.format_exception(error))
        fixes_batch = "Constraints violated" in text
        raise AuditError(
            "export",
            f"The network cannot be exported in {mode} mode: "
            + ("forward takes one number of images for granted." if fixes_batch else _gist(error)),
            where=where(text, path),
            legal="forward must be plain tensor code: no branch on values, no fixed batch size, no attribute set.",
            mend="Write images.shape[0] instead of len(images) or a number, and do not branch or loop on it."
            if fixes_batch
            else "Rewrite that line with tensor operations; make tensors and attributes in __init__.",
        ) from error
    _free_layout(program)
    return program


def _free_layout(program: ExportedProgram) -> None:
    """Let views copy where they must, and take out what torch noted of precision: the harness decides on both."""
    for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten.view.default):
        node.target = torch.ops.aten.reshape.default
    for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten._assert_tensor_metadata.default):
        program.graph.erase_node(node)
    program.graph_module.recompile()


def _gist(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"


def _refuse_foreign_operators(program: ExportedProgram, path: str) -> None:
    nodes = operators(program)
    for node in nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            foreign = node.target.namespace != "aten"
        else:  # arithmetic on sizes is plain Python; anything else is a higher-order operator
            foreign = getattr(node.target, "__module__", "") not in ("_operator", "math", "torch")
        if foreign:
            raise AuditError(
                "operator",
                f"forward uses the operator {node.target}, which the audit cannot look into.",
                where=cause(node, path),
                legal="Legal: torch's own (aten) operators; no custom operators, no nested graphs.",
                mend="Write it with ordinary torch functions; for torch.no_grad() use tensor.detach().",
            )
    size = sum(_size(node) for node in nodes)
    if size > MOST_OPERATORS:
        raise AuditError(
            "operators",
            f"forward runs {size:,} operators and entries of their lists; the most is {MOST_OPERATORS:,}.",
            where=cause(max(nodes, key=_size), path),
            mend="Loop less: one operator on a larger tensor instead of many on small ones.",
        )


def _size(node: Node) -> int:
    values = (*node.args, *node.kwargs.values())
    return max(1, sum(len(value) for value in values if isinstance(value, (list, tuple))))


def _refuse_change_at_evaluation(evaluation: ExportedProgram, path: str) -> None:
    try:
        plain = evaluation.run_decompositions()  # in-place changes and lots show only after this
    except Exception as error:
        raise AuditError(
            "export", f"The network's graph cannot be simplified: {_gist(error)}", where=path, mend="Simplify forward."
        ) from error
    for node in operators(plain):
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise AuditError(
                "random",
                f"The network draws random numbers at evaluation ({node.target}).",
                where=cause(node, path),
                legal="Random numbers are for training: self.training is false when a network is scored.",
                mend="Use nn.Dropout instead of F.dropout, or pass training=self.training.",
            )
    signature = plain.graph_signature
    changed = [*signature.buffers_to_mutate.values(), *getattr(signature, "parameters_to_mutate", {}).values()]
    if changed:
        raise AuditError(
            "state-change",
            f"Scoring the network changes its {changed[0]}.",
            where=path,
            legal="A network answers the same however often it is asked; only training moves its state.",
            mend="Update buffers only where self.training is true.",
        )


# --- the graph answers for the network, alone and in company ----------------------------------------------


def _refuse_unfaithful(network: nn.Module, train: nn.Module, evaluation: nn.Module, path: str) -> None:
    """What is trained and scored is the graph: it must answer and learn as the network itself does."""
    images = _images(7)
    worst = _gap(network, train, evaluation, images, path)
    if worst > TOLERANCE:
        raise AuditError(
            "unfaithful",
            f"The network's exported graph answers or learns differently from the network (by {worst:.2g}).",
            where=path,
            legal="What trains and is scored is the graph: no Python randomness, counters or custom gradients.",
            mend="Use torch operators for randomness and detach() for gradients; keep no state in Python.",
        )
    if not torch.equal(images, _images(7)):
        raise AuditError(
            "writes-on-images",
            "The network writes on the images it is given.",
            where=path,
            legal="Images are lent: the same memory may be asked about again.",
            mend="Take inplace=True off the first layer, or the _ off the operator that is applied to the images.",
        )


def _gap(network: nn.Module, train: nn.Module, evaluation: nn.Module, images: Tensor, path: str) -> float:
    """Return how far answers, gradients and moved buffers of the graphs, over its own tensors, are from a network's."""
    network.eval()
    with torch.no_grad(), _quiet():
        scored = _apart(network(images), evaluation(images))
    network.train()
    try:
        moved = _moves(network, network, images)
        learned = _moves(network, train, images)
    except RuntimeError as error:
        raise ContractError(
            "backward-raises",
            f"The backward pass raised {_gist(error)}",
            where=path,
            legal="Every loss must have a gradient: what it needs may not be written over.",
            mend="Take inplace=True, or the _, off the operator that overwrites what another one needs.",
        ) from error
    if moved.keys() != learned.keys():  # some parameter learns in one and not in the other
        return math.inf
    return max([scored, *(_apart(moved[name], learned[name]) for name in moved)])


def _moves(network: nn.Module, trained: Callable[[Tensor], Tensor], images: Tensor) -> dict[str, Tensor]:
    """One training pass through `trained`: answers, gradients and moved buffers by name; state is put back."""
    labels = torch.arange(len(images), device=images.device) % 10
    with _kept(network), _quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        answers = trained(images)
        nn.functional.cross_entropy(answers, labels).backward()
        seen = {"answers": answers.detach()}
        seen.update((f"buffer {name}", buffer.clone()) for name, buffer in network.named_buffers())
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            seen[f"gradient {name}"] = parameter.grad
            parameter.grad = None
    return seen


@contextlib.contextmanager
def _nudged(network: nn.Module, direction: int) -> Iterator[None]:
    """Move every number of the network by 0.2, up or down by lot; the opposite `direction` moves it the other way."""
    with _kept(network), torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.is_floating_point():
                signs = torch.randint(2, tensor.shape, generator=generator).mul(2).sub(1)
                tensor.add_(signs.to(tensor), alpha=0.2 * direction)
        yield


def refuse_batch_dependence(
    scored: Callable[[Tensor], Tensor], images: Tensor, path: str, *, crowd: int = CROWD
) -> None:
    """Ask about `images` (N, 1, 28, 28) alone and in company, and refuse a network whose answers differ.

    What a network has learned can open a gate that was shut when it was audited: ask again after training.

    Args:
        scored: maps images to (N, 10) logits.
        images: the images, a few.
        path: file name for messages.
        crowd: images in the largest batch.

    Raises:
        AuditError: an answer depends on more than its own image.
    """
    dark, bright = torch.zeros_like(images), torch.full_like(images, 2.8)
    many = torch.cat([images, dark.repeat(math.ceil(crowd / len(images)), 1, 1, 1)])[:crowd]
    with torch.no_grad():
        together = scored(images)
        if not together.isfinite().all():
            return  # nothing to compare: the nudge was too much for a deep network
        others = {
            "reversed": scored(images.flip(0)).flip(0),
            "beside other images": scored(torch.cat([images, bright, dark]))[: len(images)],
            "in a large batch": scored(many)[: len(images)],
            "two at a time": torch.cat([scored(pair) for pair in images.split(2)]),
            "beside a broken image": _beside_a_broken_image(scored, images, together),
            "again": scored(images),
        }
    for company, answers in others.items():
        refuse_other_answers(together, answers, company, path)


def refuse_other_answers(answers: Tensor, others: Tensor, company: str, path: str) -> None:
    """Refuse a network that gave `answers` and, to the same images in other `company`, `others`; both (N, 10).

    Raises:
        AuditError: they differ; what all classes have in common does not count, and hides nothing.
    """
    answers, others = (given.double() - given.double().mean(1, keepdim=True) for given in (answers, others))
    if (difference := _apart(answers, others)) > TOLERANCE:
        raise AuditError(
            "batch",
            f"The network answers differently (by {difference:.2g}) when the same images are asked {company}.",
            where=path,
            legal="An answer depends on its own image alone.",
            mend="Look for statistics over the batch axis: batch norm without running statistics, mean over dim 0.",
        )


def _beside_a_broken_image(scored: Callable[[Tensor], Tensor], images: Tensor, together: Tensor) -> Tensor:
    """Ask beside an image of not-a-numbers: they cross even a connection whose weight is still zero."""
    broken = torch.cat([images, torch.full_like(images[:2], math.nan)])
    try:
        return scored(broken)[: len(images)]
    except (RuntimeError, IndexError):  # a network may look its pixels up in a table
        return together


def _apart(left: Tensor, right: Tensor) -> float:
    """Largest difference, relative to the larger of 1 and the size of `left`; NaN counts as infinite."""
    left, right = left.detach(), right.detach()
    differ = left != right  # elsewhere they are equal, also where both are infinite
    if not differ.any():
        return 0.0
    finite = left[left.isfinite()].abs()
    size = max(1.0, float(finite.max())) if finite.numel() else 1.0
    difference = float((left[differ].to(torch.float64) - right[differ].to(torch.float64)).abs().max()) / size
    return math.inf if math.isnan(difference) else difference
