"""Run a start: make a network's first values again, for every seed, in memory and time that are bounded.

`replay` draws from torch's global generator, so that every seed has a start of its own. Every result is bounded before
it takes memory, by running the operator on tensors without memory first, and all of them together as they are made.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from harness.errors import AuditError, printable
from harness.submission.dependence import Touched, changed_memory, memory_of, references, tensors_in
from harness.submission.division import refuse_overflow
from harness.submission.plain import DTYPES, from_plain, malformed
from harness.submission.start import Program, check_start
from harness.submission.start_operators import COSTLY, TRUNC_NORMAL, base_name, operator_of
from harness.submission.truncated import work_of_trunc_normal

MOST_ELEMENTS = 2**24
"""Most elements of one result."""

MOST_WORK = 2**29
"""Most elements of all results together, with what matrix products take on top."""

MOST_MEMORY = 2**29
"""Most bytes of all results together: a replay keeps them, as later steps may read them."""

_EMPTY = frozenset(("empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided"))


def replay(program: Program, empty: float = 0.0) -> dict[str, Tensor]:
    """Return the first values of a network, drawn from torch's global generator.

    Args:
        program: checked in full before it runs.
        empty: written into memory that the program leaves uninitialised.

    Returns:
        Tensors by name: on the CPU, dense, each in memory of its own.

    Raises:
        AuditError: the program is malformed or not allowed.
    """
    results, _ = run(program, empty)
    values = {name: _plain(results[value["ref"]]) for name, value in program["state"].items()}
    return {name: value.clone(memory_format=torch.contiguous_format) for name, value in values.items()}


def run(program: Program, empty: float = 0.0) -> tuple[list[Tensor], list[Touched]]:
    """Return all results of a program, and what each step touched; arguments and errors as `replay`."""
    check_start(program)
    results = [_constant(constant) for constant in program["constants"]]
    touched: list[Touched] = []
    meter = _Meter(results)
    with torch.no_grad():
        for name, plain_args, plain_kwargs, outs in program["steps"]:
            reads = tuple(references([plain_args, plain_kwargs]))
            sources = [results[number] for number in reads]
            args = from_plain(plain_args, results.__getitem__)
            kwargs = {key: from_plain(value, results.__getitem__) for key, value in plain_kwargs.items()}
            try:
                meter.foresee(name, args)
                made, changed = _step(name, args, kwargs, empty)
            except AuditError:
                raise
            except Exception as error:  # torch raises many types for arguments that do not fit
                raise malformed(f"{name} raised {type(error).__name__}") from error
            if len(made) != outs:
                raise malformed(f"the number of results of {name}")
            meter.add(name, sources, made)
            touched.append(Touched.of(reads, range(len(results), len(results) + outs), sources, changed))
            results.extend(made)
    return results, touched


def refuse_uninitialised(program: Program) -> None:
    """Refuse a start that reads memory which was never written; torch's generator is left as it was.

    Raises:
        AuditError: a tensor depends on such memory.
    """
    with torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        first = replay(program, 0.0)
        torch.set_rng_state(before)
        second = replay(program, 3.0)
    for name, value in first.items():
        if not same_bits(value, second[name]):
            raise AuditError(
                "start",
                f"{printable(name)} starts with memory that was never written.",
                allowed="Every parameter and buffer has a value, or a distribution, before the first step.",
                hint="Fill torch.empty with torch.nn.init, or use torch.zeros; numpy's writes into it are not seen.",
            )


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors have the same type, shape and bits; a NaN equals itself."""
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    return torch.equal(*(_plain(each).contiguous().flatten().view(torch.uint8) for each in (first, second)))


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().resolve_conj().resolve_neg()


def _constant(constant: Mapping[str, Any]) -> Tensor:
    try:
        data = bytearray(base64.b64decode(constant["data"], validate=True))
    except binascii.Error as error:
        raise malformed("the bytes of a constant") from error
    dtype, shape = DTYPES[constant["dtype"]], constant["shape"]
    size = math.prod(shape) * dtype.itemsize
    if len(data) != size:
        raise malformed("the bytes of a constant")
    if dtype == torch.bool and max(data, default=0) > 1:
        raise malformed("the truth values of a constant")
    return torch.frombuffer(data, dtype=dtype).clone().reshape(shape) if size else torch.empty(shape, dtype=dtype)


def _step(name: str, args: list[Any], kwargs: dict[str, Any], empty: float) -> tuple[list[Tensor], list[Tensor]]:
    """Run one step; return its results and the tensors it has written."""
    if name == TRUNC_NORMAL:
        return [nn.init.trunc_normal_(*args)], args[:1]
    operator = operator_of(name)
    refuse_overflow(operator, args, kwargs)
    _refuse_large_results(name, operator, args, kwargs)
    changed = changed_memory(operator, args, kwargs)
    made = tensors_in(operator(*args, **kwargs))
    for tensor in made:
        if type(tensor) is not Tensor or tensor.device.type != "cpu" or tensor.layout != torch.strided:
            raise malformed(f"the result of {name}")
        if base_name(operator) in _EMPTY:
            tensor.fill_(empty)
    return made, changed


# --- bounds -----------------------------------------------------------------------------------------------


class _Meter:
    """Adds up the work and the memory of a program's steps, and refuses what is too much."""

    def __init__(self, constants: Sequence[Tensor]) -> None:
        self._work, self._memory = 0.0, 0
        self._held = set(map(memory_of, constants))

    def foresee(self, name: str, args: Sequence[Any]) -> None:
        """Add what a step will take beyond its results.

        Raises:
            AuditError: it is too much.
        """
        if name == TRUNC_NORMAL:
            self._work += work_of_trunc_normal(*args)
            if self._work > MOST_WORK:
                raise AuditError(
                    "start",
                    "build calls trunc_normal_ with bounds that hardly a value is within, or on too large a tensor.",
                    hint="Move the bounds to where the values are.",
                )

    def add(self, name: str, sources: Sequence[Tensor], made: Sequence[Tensor]) -> None:
        """Add a step, by what it has read and made.

        Raises:
            AuditError: one of its results is too large, or they all are together.
        """
        self._work += sum(tensor.numel() for tensor in made)
        if name.split(".")[1] in COSTLY and sources and made:  # 64 products take as long as an element
            sizes = [sources[0].numel(), sources[-1].numel(), max(each.numel() for each in made)]
            self._work += math.isqrt(math.prod(sizes)) // 64
        for tensor in made:
            if memory_of(tensor) not in self._held:
                self._held.add(memory_of(tensor))
                self._memory += tensor.untyped_storage().nbytes()
        if self._work > MOST_WORK or self._memory > MOST_MEMORY or _has_large(made):
            raise _too_large(name)


def _refuse_large_results(name: str, operator: torch._ops.OpOverload, args: list[Any], kwargs: dict[str, Any]) -> None:
    """Refuse a step with too large a result before it takes memory: it runs on tensors without memory first."""
    schema, base = operator._schema, base_name(operator)
    is_view = not schema.is_mutable and any(returned.alias_info is not None for returned in schema.returns)
    in_place = schema.is_mutable and not any(argument.is_out for argument in schema.arguments)
    if is_view or in_place:
        return
    sources = tensors_in([args, kwargs])
    if base == "native_batch_norm" and any(each.shape != sources[0].shape[1:2] for each in sources[1:]):
        raise malformed(f"the sizes of {name}")
    if base.startswith(("linalg", "_linalg", "geqrf")) and sources and sources[0].numel() > 2**22:
        raise _too_large(name)
    if _is_sized_by_values(base, args):
        _refuse_large_sources(name, sources)
        return
    shapes = {id(each): each.new_empty_strided(each.shape, each.stride(), device="meta") for each in sources}
    meta_args, meta_kwargs = tree_map_only(Tensor, lambda each: shapes[id(each)], (args, kwargs))
    if any(argument.name == "device" for argument in schema.arguments):
        meta_kwargs["device"] = torch.device("meta")
    try:
        made = tensors_in(operator(*meta_args, **meta_kwargs))
    except NotImplementedError:  # a matrix decomposition, whose results are not larger than its matrix
        _refuse_large_sources(name, sources)
        return
    if _has_large(made):
        raise _too_large(name)


def _is_sized_by_values(base: str, args: list[Any]) -> bool:
    """Whether the size of a result depends on values, which a tensor without memory lacks."""
    if base in ("index", "_unsafe_index"):
        return any(index.dtype in (torch.bool, torch.uint8) for index in tensors_in(args[1:]))
    return base in ("nonzero", "masked_select")


def _refuse_large_sources(name: str, sources: Sequence[Tensor]) -> None:
    if math.prod(max(1, each.numel()) for each in sources) > 2**40 or sources[0].numel() * 8 > MOST_ELEMENTS:
        raise _too_large(name)


def _has_large(made: Sequence[Tensor]) -> bool:
    return any(tensor.numel() > MOST_ELEMENTS for tensor in made)


def _too_large(name: str) -> AuditError:
    return AuditError(
        "start",
        f"build makes first values with {name} on too large a tensor, or after too many large ones.",
        allowed=f"Allowed: {MOST_ELEMENTS:,} numbers in one tensor, {MOST_MEMORY >> 20} MiB in all.",
        hint="Make only what the network stores.",
    )
