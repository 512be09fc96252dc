"""From a network to its ledger: every number it stores, counted on the graph that is trained and scored.

A network is exported twice with `torch.export`, in training and in evaluation mode. What is counted is
what these two graphs hold, and they alone are then trained and scored: after the audit none of the
plug-in's Python runs any more, so a number that is not in the ledger cannot help the score.

Counted, in 32-bit units: parameters (frozen ones too), buffers, tensors the graph holds as constants
(attributes, globals, arrays, literal tables) and numbers written into the code of `forward`. Listed
but not counted: batch-norm running statistics, as long as they are nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule, Node
from torch.nn.modules.module import register_module_parameter_registration_hook

from harness.errors import AuditError, BudgetError, ContractError
from harness.spec import Budget, Recipe

TOLERANCE = 1e-4
"""How far two answers may lie apart and still be the same answer (of logits of ordinary size)."""

MOST_OPERATORS = 2_000
"""Most operators in a graph. Shapes, strides and indices are free, so each operator could hide a few
bits; this bounds them. A 30-layer network has about 150."""

FREE_LITERALS: Mapping[str, frozenset[str]] = {
    "batch_norm": frozenset({"momentum", "eps"}),
    "group_norm": frozenset({"eps"}),
    "layer_norm": frozenset({"eps"}),
    "rms_norm": frozenset({"eps"}),
    "instance_norm": frozenset({"momentum", "eps"}),
    "dropout": frozenset({"p"}),
    "feature_dropout": frozenset({"p"}),
    "alpha_dropout": frozenset({"p"}),
    "feature_alpha_dropout": frozenset({"p"}),
}
"""Operator arguments whose numbers are settings of a layer, not knowledge about digits."""

GUARDED_METHODS = (
    "parameters", "named_parameters", "buffers", "named_buffers", "modules", "named_modules", "children",
    "named_children", "state_dict", "load_state_dict", "register_parameter", "register_buffer", "_apply",
    "__call__", "__getattr__", "__getattribute__", "__setattr__",
)  # fmt: skip
"""Methods of ``nn.Module`` by which the harness and torch find a network's numbers."""


@dataclass(frozen=True)
class Entry:
    """One line of the ledger.

    Attributes:
        layer: dotted name of the module, or ``file:line`` for what no module holds.
        name: name of the tensor within its layer.
        kind: parameter, frozen parameter, buffer, constant, literal or batch-norm statistic.
        shape: the tensor's axes.
        numbers: stored 32-bit units.
        counted: whether they count against the budget.
    """

    layer: str
    name: str
    kind: str
    shape: tuple[int, ...]
    numbers: int
    counted: bool = True


@dataclass(frozen=True)
class Ledger:
    """Every number a network stores."""

    entries: tuple[Entry, ...]

    @property
    def parameters(self) -> int:
        """The counted numbers: what the budget limits."""
        return sum(entry.numbers for entry in self.entries if entry.counted)


@dataclass(frozen=True, eq=False)
class Audit:
    """A network that passed, as the two graphs that are trained and scored, and its ledger.

    Both graphs hold the very parameters and buffers of the network, so training one moves the other.
    """

    ledger: Ledger
    train: ExportedProgram
    evaluation: ExportedProgram


def audit(network: nn.Module, path: str) -> Audit:
    """Export `network`, built by the plug-in at `path`, and count what it stores.

    Args:
        network: maps (N, 1, 28, 28) float images to (N, 10) logits; on any device.
        path: file name for messages.

    Raises:
        ContractError: a wrong output, or a `forward` that raises.
        AuditError: the network hides state, draws lots, changes when scored, or cannot be exported.
    """
    _refuse_overrides(network, path)
    _probe(network, path)
    train, evaluation = _export(network, True, path), _export(network, False, path)
    for program in (train, evaluation):
        _refuse_foreign_operators(program, path)
    _refuse_change_at_evaluation(evaluation, path)
    found = Audit(_ledger(network, train, evaluation, path), train, evaluation)
    _refuse_unfaithful(network, found, path)
    _refuse_batch_dependence(evaluation.module(), _images(network, 12), path)
    return found


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
            legal="Largest: " + "; ".join(f"{e.layer} {e.name} ({e.kind}) {e.numbers:,}" for e in largest) + ".",
            mend="Make it narrower, or take layers out; `python -m harness check` shows the layer table.",
        )
    if recipe.epochs > budget.epochs:
        raise BudgetError(
            "epochs",
            f"The recipe trains for {recipe.epochs} epochs; the budget is {budget.epochs}.",
            mend=f"Set epochs to {budget.epochs} or fewer.",
        )


# --- the plug-in's own Python, run for the last time -------------------------------------------------


def _refuse_overrides(network: nn.Module, path: str) -> None:
    for name, module in nn.Module.named_modules(network):
        for method in GUARDED_METHODS:
            owner = next(kind for kind in type(module).__mro__ if method in kind.__dict__)
            if method in module.__dict__ or not owner.__module__.startswith(("torch.", "builtins")):
                raise AuditError(
                    "override",
                    f"{name or type(module).__name__} overrides nn.Module.{method}.",
                    where=path,
                    legal="The harness finds a network's numbers through nn.Module's own methods.",
                    mend=f"Take the override of {method} out.",
                )


def _images(network: nn.Module, count: int) -> Tensor:
    """Made-up images (N, 1, 28, 28) on the network's device, in the range of normalised digits."""
    device = next((tensor.device for tensor in network.parameters()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(count)
    return torch.rand(count, 1, 28, 28, generator=generator).mul(3.2).sub(0.4).to(device)


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
    count = 6
    network.train(training)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answers = network(_images(network, count))
    except (Exception, SystemExit) as error:
        raise ContractError(
            "forward-raises",
            f"forward raised {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}",
            where=_where("".join(traceback.format_exception(error)), path),
            legal="forward takes (N, 1, 28, 28) float images and returns (N, 10) logits.",
            mend="Mend that line.",
        ) from error
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name in state and tensor.shape == state[name].shape:
                tensor.copy_(state[name])
    wrong = ""
    if not isinstance(answers, Tensor):
        wrong = f"a {type(answers).__name__}"
    elif tuple(answers.shape) != (count, 10):
        wrong = f"shape {tuple(answers.shape)} for {count} images"
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
            mend="Mend the last layer.",
        )
    return answers


def _leaves(answers: Tensor) -> Iterator[Tensor]:
    """Yield the tensors that gradients of `answers` would reach."""
    todo, seen = [answers.grad_fn], {None}
    while todo:
        function = todo.pop()
        if function in seen or function is None:
            continue
        seen.add(function)
        if hasattr(function, "variable"):
            yield function.variable
        todo.extend(parent for parent, _ in function.next_functions)


# --- export ---------------------------------------------------------------------------------------------


def _export(network: nn.Module, training: bool, path: str) -> ExportedProgram:
    network.train(training)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # A dynamic batch: a branch on the number of images cannot hide a second network.
            return torch.export.export(network, (_images(network, 3),), dynamic_shapes=({0: Dim("batch", min=2)},))
    except Exception as error:  # torch.export raises many types, none documented
        mode = "training" if training else "evaluation"
        text = "".join(traceback.format_exception(error))
        raise AuditError(
            "export",
            f"The network cannot be exported in {mode} mode: {_gist(error)}",
            where=_where(text, path),
            legal="forward must be plain tensor code: no branch on values, no fixed batch size, no attribute set.",
            mend="Rewrite that line with tensor operations; make tensors and attributes in __init__.",
        ) from error


def _gist(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"


def _where(text: str, path: str) -> str:
    """Return ``path:line`` for the last mention of a line of `path` in a traceback, or `path`."""
    lines = re.findall(rf'File "{re.escape(path)}", line (\d+)', text)
    return f"{path}:{lines[-1]}" if lines else path


def _cause(node: Node, path: str) -> str:
    return _where(node.meta.get("stack_trace") or "", path)


def _operators(program: ExportedProgram) -> list[Node]:
    return [node for node in program.graph.nodes if node.op == "call_function"]


def _refuse_foreign_operators(program: ExportedProgram, path: str) -> None:
    nodes = _operators(program)
    for node in nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            foreign = node.target.namespace != "aten"
        else:  # arithmetic on sizes is plain Python; anything else is a higher-order operator
            foreign = getattr(node.target, "__module__", "") not in ("_operator", "math", "torch")
        if foreign:
            raise AuditError(
                "operator",
                f"forward uses the operator {node.target}, which the audit cannot look into.",
                where=_cause(node, path),
                legal="Legal: torch's own (aten) operators; no custom operators, no nested graphs.",
                mend="Write it with ordinary torch functions; for torch.no_grad() use tensor.detach().",
            )
    if len(nodes) > MOST_OPERATORS:
        raise AuditError(
            "operators",
            f"forward runs {len(nodes):,} operators; the most is {MOST_OPERATORS:,}.",
            where=path,
            mend="Loop less: one operator on a larger tensor instead of many on small ones.",
        )


def _refuse_change_at_evaluation(evaluation: ExportedProgram, path: str) -> None:
    try:
        plain = evaluation.run_decompositions()  # in-place changes and lots show only after this
    except Exception as error:
        raise AuditError(
            "export", f"The network's graph cannot be simplified: {_gist(error)}", where=path, mend="Simplify forward."
        ) from error
    for node in _operators(plain):
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise AuditError(
                "random",
                f"The network draws random numbers at evaluation ({node.target}).",
                where=_cause(node, path),
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


# --- the ledger -----------------------------------------------------------------------------------------


def _ledger(network: nn.Module, train: ExportedProgram, evaluation: ExportedProgram, path: str) -> Ledger:
    statistics = _batch_norm_statistics(network, train, evaluation)
    entries: list[Entry] = []
    counted_storages: set[int] = set()
    registered = [*network.named_parameters(), *network.named_buffers()]
    for name, tensor in registered:
        layer, _, short = name.rpartition(".")
        kind = _kind(name, tensor, statistics)
        numbers = _units(tensor, counted_storages)
        entries.append(Entry(layer or type(network).__name__, short, kind, tuple(tensor.shape), numbers, name not in statistics))
    for program in (train, evaluation):
        entries.extend(_constants(program, counted_storages, path))
    return Ledger((*_without_repeats(entries), *_literals(train, evaluation, path)))


def _kind(name: str, tensor: Tensor, statistics: set[str]) -> str:
    if name in statistics:
        return "batch-norm statistic"
    if isinstance(tensor, nn.Parameter):
        return "parameter" if tensor.requires_grad else "frozen parameter"
    return "buffer"


def _units(tensor: Tensor, counted: set[int]) -> int:
    """Return the stored 32-bit units behind `tensor`; 0 if an earlier tensor shares its memory.

    The whole storage counts, not the view of it, and a number of under 32 bits counts as one.
    """
    storage = tensor.untyped_storage()
    if storage.data_ptr() in counted:
        return 0
    counted.add(storage.data_ptr())
    elements = max(tensor.numel(), math.ceil(storage.nbytes() / tensor.element_size()))
    return elements * max(1, math.ceil(tensor.element_size() / 4))


def _batch_norm_statistics(network: nn.Module, train: ExportedProgram, evaluation: ExportedProgram) -> set[str]:
    """Name the buffers that are honest running statistics: of a batch norm, from 0 and 1, and nothing else."""
    buffers = dict(network.named_buffers())
    users = {mode: _buffer_users(program) for mode, program in (("train", train), ("evaluation", evaluation))}
    honest = set()
    for name, buffer in buffers.items():
        training, scoring = users["train"].get(name, []), users["evaluation"].get(name, [])
        for role, start in (("running_mean", 0), ("running_var", 1)):
            moved = training and all(_serves(user, node, role, training=True) for user, node in training)
            if moved and all(_serves(user, node, role) for user, node in scoring) and bool((buffer == start).all()):
                honest.add(name)
        # Counts batches: only ever raised by one, and read by nobody.
        counter = all(user.target is torch.ops.aten.add_.Tensor and user.args[1] == 1 for user, _ in training)
        if training and counter and not scoring and not any(user.users for user, _ in training):
            if buffer.ndim == 0 and buffer == 0:
                honest.add(name)
    return honest


def _buffer_users(program: ExportedProgram) -> dict[str, list[tuple[Node, Node]]]:
    """Map each buffer's name to the (user, placeholder) pairs in the graph."""
    names = program.graph_signature.inputs_to_buffers
    found: dict[str, list[tuple[Node, Node]]] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in names:
            found[names[node.name]] = [(user, node) for user in node.users]
    return found


def _serves(user: Node, buffer: Node, role: str, training: bool | None = None) -> bool:
    """Whether batch norm `user` takes `buffer` as its `role` and as nothing else."""
    if user.target is not torch.ops.aten.batch_norm.default:
        return False
    given = arguments(user)
    uses = [name for name, value in given.items() if value is buffer]
    return uses == [role] and training in (None, given["training"])


def arguments(node: Node) -> dict[str, Any]:
    """Return the arguments of an operator call by their schema names, defaults filled in."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    values = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    values.update({argument.name: value for argument, value in zip(schema, node.args, strict=False)})
    values.update(node.kwargs)
    return values


def _constants(program: ExportedProgram, counted: set[int], path: str) -> Iterator[Entry]:
    lifted = program.graph_signature.inputs_to_lifted_tensor_constants
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in lifted:
            name = lifted[node.name]
            tensor = program.constants[name]
            assert isinstance(tensor, Tensor)
            user = next(iter(node.users), node)
            numbers = _units(tensor, counted)
            if numbers:
                digest = hashlib.sha256(tensor.detach().cpu().contiguous().view(-1).numpy().tobytes()).hexdigest()
                yield Entry(_cause(user, path), f"{name}#{digest[:8]}", "constant", tuple(tensor.shape), numbers)


def _without_repeats(entries: list[Entry]) -> Iterator[Entry]:
    """A literal table is lifted once in each mode: the same line, content and shape is one table."""
    seen = set()
    for entry in entries:
        key = (entry.layer, entry.name.partition("#")[2], entry.shape)
        if entry.kind != "constant" or key not in seen:
            seen.add(key)
            yield entry


def _literals(train: ExportedProgram, evaluation: ExportedProgram, path: str) -> Iterator[Entry]:
    """Numbers written into `forward`, by line; the larger count of the two modes where they differ."""
    found = _written(train, path) | _written(evaluation, path)
    lines = Counter[str]()
    for (line, _number), times in found.items():
        lines[line] += times
    for line, numbers in sorted(lines.items()):
        yield Entry(line, "numbers in the code", "literal", (), numbers)


def _written(program: ExportedProgram, path: str) -> Counter[tuple[str, float]]:
    """Count (line, number) over the graph: all numbers where nothing but numbers flows, else the non-structural ones."""
    found = Counter[tuple[str, float]]()
    from_data: set[Node] = set()
    for node in program.graph.nodes:
        if node.op == "placeholder":
            from_data.add(node)
        elif node.op == "call_function":
            is_size = not isinstance(node.meta.get("val"), (Tensor, list, tuple))
            if not is_size and any(source in from_data for source in node.all_input_nodes):
                from_data.add(node)
            if isinstance(node.target, torch._ops.OpOverload):
                for number in _numbers(node, everything=node not in from_data and not is_size):
                    found[_cause(node, path), number] += 1
    return found


def _numbers(node: Node, everything: bool) -> Iterator[float]:
    free = FREE_LITERALS.get(node.target._schema.name.partition("::")[2], frozenset())  # type: ignore[union-attr]
    types = {argument.name: str(argument.type) for argument in node.target._schema.arguments}  # type: ignore[union-attr]
    for name, value in arguments(node).items():
        given = value is not None and name not in free
        for number in value if isinstance(value, (list, tuple)) else (value,):
            if not given or isinstance(number, (bool, Node)) or not isinstance(number, (int, float, complex)):
                continue
            structural = isinstance(number, int) and ("int" in types[name].lower())
            parts = (number.real, number.imag) if isinstance(number, complex) else (number,)
            for part in parts:
                if (everything or not structural) and part not in (-1, 0, 1) and math.isfinite(part):
                    yield part


# --- the graph answers for the network, alone and in company ----------------------------------------------


def _refuse_unfaithful(network: nn.Module, found: Audit, path: str) -> None:
    """What is trained and scored is the graph: it must answer and learn as the network itself does."""
    images = _images(network, 7)
    network.eval()
    with torch.no_grad(), _quiet():
        scored = _apart(network(images), found.evaluation.module()(images))
    network.train()
    moved = _moves(network, network, images)
    learned = _moves(network, found.train.module(), images)
    worst = max([scored, *(_apart(moved[name], learned[name]) for name in moved)])
    if worst > TOLERANCE:
        raise AuditError(
            "unfaithful",
            f"The network's exported graph answers or learns differently from the network (by {worst:.2g}).",
            where=path,
            legal="What trains and is scored is the graph: Python randomness, counters, custom gradients are not in it.",
            mend="Use torch operators for randomness and detach() for gradients; keep no state in Python.",
        )


def _moves(network: nn.Module, trained: Callable[[Tensor], Tensor], images: Tensor) -> dict[str, Tensor]:
    """One training pass through `trained`: answers, gradients and moved buffers by name; state is put back."""
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    labels = torch.arange(len(images), device=images.device) % 10
    with _quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        answers = trained(images)
        nn.functional.cross_entropy(answers, labels).backward()
    seen = {"answers": answers.detach()}
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            seen[f"gradient {name}"] = parameter.grad
            parameter.grad = None
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            seen[f"buffer {name}"] = buffer.clone()
            buffer.copy_(before[name])
    return seen


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _refuse_batch_dependence(scored: GraphModule, images: Tensor, path: str) -> None:
    """Ask about the same images alone, in pairs, reversed and beside extreme ones."""
    with torch.no_grad():
        together = scored(images)
        extreme = torch.cat([images, images * 100, torch.zeros_like(images)])
        others = {
            "reversed": scored(images.flip(0)).flip(0),
            "beside other images": scored(extreme)[: len(images)],
            "two at a time": torch.cat([scored(pair) for pair in images.split(2)]),
            "again": scored(images),
        }
    for company, answers in others.items():
        if (difference := _apart(together, answers)) > TOLERANCE:
            raise AuditError(
                "batch",
                f"The network answers differently (by {difference:.2g}) when the same images are asked {company}.",
                where=path,
                legal="An answer depends on its own image alone.",
                mend="Look for statistics over the batch axis: batch norm without running statistics, mean over dim 0.",
            )


def _apart(left: Tensor, right: Tensor) -> float:
    """Largest difference, relative to the larger of 1 and the size of `left`; NaN counts as infinite."""
    if left.numel() == 0:
        return 0.0
    size = max(1.0, float(left.detach().abs().max()))
    difference = float((left.detach().to(torch.float64) - right.detach().to(torch.float64)).abs().max()) / size
    return math.inf if math.isnan(difference) else difference
