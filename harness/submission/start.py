"""The start of a network: the program of operators that makes its first values, checked, replayed and measured.

A program is data that a plug-in's process handed over; nothing in it is trusted. Its results are numbered: constants
first, then the tensors that each step returns. `replay` draws from torch's global generator, so that every seed has a
start of its own.
"""

from __future__ import annotations

import base64
import binascii
import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import AuditError, printable
from harness.submission.plain import DTYPES, from_plain, malformed

Program = Mapping[str, Any]

MOST_STEPS = 20_000
"""Most operators in a start; a transformer of twenty layers has about 1,000."""

MOST_ELEMENTS = 2**24
"""Most elements of one result."""

MOST_WORK = 2**29
"""Most elements of all results together, with what matrix products take on top."""

MOST_MEMORY = 2**29
"""Most bytes of all results together: a replay keeps them, as later steps may read them."""

MOST_BYTES = 2**22
"""Most bytes of all constants together: two hundred for each number of the budget."""

TRUNC_NORMAL = "init.trunc_normal_"
"""Stands for `torch.nn.init.trunc_normal_`, which draws again until every value is within its bounds: how often
depends on the seed. Its arguments are the tensor, mean, standard deviation and the two bounds."""

_GROUPS = {
    "memory and values made from nothing": (
        "empty empty_like empty_permuted empty_strided new_empty new_empty_strided zeros zeros_like new_zeros "
        "ones ones_like new_ones full full_like new_full scalar_tensor arange linspace logspace eye "
        "tril_indices triu_indices bartlett_window blackman_window hamming_window hann_window kaiser_window"
    ),
    "draws": (
        "rand rand_like randn randn_like randint randint_like randperm normal normal_ uniform uniform_ "
        "bernoulli bernoulli_ exponential_ log_normal log_normal_ geometric_ cauchy_ random_ multinomial "
        "poisson binomial native_dropout"
    ),
    "fills and copies": (
        "fill fill_ zero zero_ copy copy_ clone _to_copy lift_fresh lift_fresh_copy masked_fill masked_fill_ "
        "masked_scatter masked_scatter_ index_fill index_fill_ index_put index_put_ _unsafe_index_put "
        "index_copy index_copy_ index_add index_add_ scatter scatter_ scatter_add scatter_add_ select_scatter "
        "slice_scatter diagonal_scatter"
    ),
    "views and arrangements": (
        "view view_as_real view_as_complex _unsafe_view alias detach as_strided expand select slice "
        "split split_with_sizes unbind unfold t transpose permute squeeze unsqueeze diagonal "
        "unsafe_split view_copy expand_copy select_copy slice_copy t_copy transpose_copy permute_copy "
        "diagonal_copy squeeze_copy unsqueeze_copy detach_copy alias_copy split_copy split_with_sizes_copy "
        "as_strided_copy unfold_copy unbind_copy flip roll rot90 cat stack repeat tril tril_ triu triu_ "
        "diag_embed block_diag constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d "
        "replication_pad2d pixel_shuffle pixel_unshuffle trace"
    ),
    "reading at places": (
        "index _unsafe_index index_select gather take embedding masked_select nonzero where sort topk "
        "searchsorted bucketize"
    ),
    "arithmetic": (
        "add add_ sub sub_ rsub mul mul_ div div_ remainder remainder_ fmod fmod_ floor_divide floor_divide_ "
        "pow pow_ neg neg_ abs abs_ sign sign_ sgn sgn_ sqrt sqrt_ rsqrt rsqrt_ reciprocal "
        "reciprocal_ exp exp_ exp2 exp2_ expm1 expm1_ log log_ log2 log2_ log10 log10_ log1p log1p_ sin sin_ "
        "cos cos_ tan tan_ asin asin_ acos acos_ atan atan_ atan2 atan2_ sinh sinh_ cosh cosh_ tanh tanh_ "
        "asinh asinh_ acosh acosh_ atanh atanh_ sinc sinc_ erf erf_ erfc erfc_ erfinv erfinv_ lgamma lgamma_ "
        "digamma digamma_ i0 i0_ sigmoid sigmoid_ logit logit_ clamp clamp_ clamp_min clamp_min_ clamp_max "
        "clamp_max_ maximum minimum fmax fmin hypot floor floor_ ceil ceil_ round round_ trunc trunc_ frac "
        "frac_ lerp lerp_ addcmul addcmul_ addcdiv addcdiv_ nan_to_num nan_to_num_ copysign copysign_ "
        "special_bessel_j0 special_bessel_j1 complex polar angle _conj _conj_physical conj_physical "
        "gcd gcd_"
    ),
    "comparisons and logic": (
        "eq ne lt le gt ge eq_ ne_ lt_ le_ gt_ ge_ logical_and logical_or logical_not logical_xor "
        "logical_and_ logical_or_ logical_not_ logical_xor_ bitwise_and bitwise_or bitwise_xor bitwise_not "
        "bitwise_and_ bitwise_or_ bitwise_xor_ bitwise_not_ bitwise_left_shift bitwise_right_shift __lshift__ "
        "__rshift__ isnan isinf isin signbit"
    ),
    "reductions": (
        "sum mean prod amax amin aminmax max min argmax argmin any all norm linalg_vector_norm var std "
        "var_mean std_mean cumsum cumsum_ cumprod cumprod_ cummax cummin logsumexp logcumsumexp median "
        "kthvalue mode count_nonzero dist"
    ),
    "matrices": (
        "mm bmm mv dot vdot addmm addmm_ addmv addbmm baddbmm addr addr_ linear linalg_cross "
        "linalg_qr linalg_householder_product geqrf _linalg_svd _linalg_eigh "
        "linalg_lu_factor_ex linalg_inv_ex linalg_matrix_exp linalg_cholesky_ex _linalg_det "
        "_linalg_slogdet linalg_solve_triangular _linalg_solve_ex _cdist_forward _euclidean_dist"
    ),
    "transforms": ("_fft_r2c _fft_c2r _fft_c2c"),
    "layers, where build runs the network once": (
        "convolution relu relu_ leaky_relu leaky_relu_ elu elu_ celu gelu silu silu_ mish mish_ hardtanh "
        "hardtanh_ hardswish hardswish_ hardsigmoid softplus log_sigmoid_forward _prelu_kernel "
        "threshold glu _softmax _log_softmax native_batch_norm native_layer_norm native_group_norm "
        "max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d upsample_nearest2d "
        "upsample_bilinear2d"
    ),
}

OPERATORS = frozenset(name for names in _GROUPS.values() for name in names.split())
"""Base names of the operators that a start may use. None of them reads a file, takes foreign memory, changes the size
of memory that exists, or makes sparse or quantised tensors."""

_COSTLY = frozenset((*_GROUPS["matrices"].split(), "convolution"))

_EMPTY = frozenset(("empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided"))

_NORMS = frozenset(("native_batch_norm",))

_SIZED_BY_VALUES = frozenset(("nonzero", "masked_select", "index", "_unsafe_index"))

_KINDS: Mapping[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}

_ENUMS = {"ScalarType": "dtype", "Layout": "layout", "MemoryFormat": "memory_format", "Device": "device"}


def check_start(program: object) -> None:
    """Check a start program in full, without running it.

    Raises:
        AuditError: it is malformed (rule ``submission``), or has an operator or sizes that are not allowed (``start``).
    """
    if not isinstance(program, dict) or set(program) != {"constants", "steps", "state"}:
        raise malformed("the start is not constants, steps and state")
    constants, steps, state = program["constants"], program["steps"], program["state"]
    if not (isinstance(constants, list) and isinstance(steps, list) and isinstance(state, dict)):
        raise malformed("the start is not made of lists")
    if len(steps) > MOST_STEPS:
        raise too_many_steps(len(steps))
    if sum(_constant_bytes(constant) for constant in constants) > MOST_BYTES:
        raise AuditError(
            "start",
            "The first values are made from more stored numbers than the harness reads.",
            allowed=f"Allowed: {MOST_BYTES:,} bytes.",
            hint="Draw weights with torch's own functions.",
        )
    known = len(constants)
    for step in steps:
        if not (isinstance(step, list) and len(step) == 4 and isinstance(step[0], str)):
            raise malformed("a step of the start")
        name, args, kwargs, outs = step
        if not (isinstance(args, list) and isinstance(kwargs, dict) and type(outs) is int and 0 <= outs <= 10_000):
            raise malformed(f"a step {name[:60]!r}")
        _check_arguments(name, args, kwargs, known)
        known += outs
    for name, value in state.items():
        if not (isinstance(name, str) and _is_reference(value, known)):
            raise malformed("the state of the start")


def too_many_steps(steps: int) -> AuditError:
    """Return the error for a start of so many operators."""
    return AuditError(
        "start",
        f"build runs {steps:,} operators to make the first values.",
        allowed=f"Allowed: {MOST_STEPS:,}.",
        hint="Use few operators on whole tensors instead of many on single numbers.",
    )


def _constant_bytes(constant: object) -> int:
    if not isinstance(constant, dict) or set(constant) != {"dtype", "shape", "data"}:
        raise malformed("a constant of the start")
    dtype, shape, data = constant["dtype"], constant["shape"], constant["data"]
    if not (isinstance(dtype, str) and dtype in DTYPES and isinstance(data, str)):
        raise malformed("a constant of the start")
    if not (isinstance(shape, list) and len(shape) <= 64 and all(type(n) is int and 0 <= n < 2**32 for n in shape)):
        raise malformed("the shape of a constant")
    size = math.prod(shape) * DTYPES[dtype].itemsize
    if len(data) != (size + 2) // 3 * 4:
        raise malformed("the bytes of a constant")
    return size


def _check_arguments(name: str, args: list[Any], kwargs: dict[str, Any], known: int) -> None:
    if name == TRUNC_NORMAL:
        _check_trunc_normal(args, kwargs, known)
        return
    schema = {argument.name: argument for argument in operator_of(name)._schema.arguments}
    positional = [argument.name for argument in schema.values() if not argument.kwarg_only]
    if len(args) > len(positional) or set(kwargs) - (set(schema) - set(positional[: len(args)])):
        raise malformed(f"the arguments of {name}")
    for key, value in (*zip(positional, args, strict=False), *kwargs.items()):
        odd = (
            value if key == "pin_memory" else key == "decimals" and abs(value) > 30
        )  # a shape function raises 10 to it
        if not _fits(value, str(schema[key].real_type), known) or odd:
            raise malformed(f"the argument {key} of {name}")


def _check_trunc_normal(args: list[Any], kwargs: dict[str, Any], known: int) -> None:
    numbers = args[1:]
    if kwargs or len(args) != 5 or not _is_reference(args[0], known) or not all(_fits(n, "float", 0) for n in numbers):
        raise malformed(f"the arguments of {TRUNC_NORMAL}")
    if any(isinstance(number, dict) or abs(number) > 1e30 for number in numbers):
        raise malformed(f"the numbers of {TRUNC_NORMAL}")
    mean, std, low, high = numbers
    inside = std > 0 and low < high and low - 4 * std < mean < high + 4 * std
    if not (inside and (high - low <= 100 * std or low + std <= mean <= high - std)):
        raise AuditError(
            "start",
            f"trunc_normal_ would draw for ever: mean {mean}, standard deviation {std}, bounds {low} and {high}.",
            allowed="Allowed: a mean at most four standard deviations outside the bounds.",
            hint="Move the bounds to where the values are.",
        )


def operator_of(name: str) -> torch._ops.OpOverload:
    """Return the operator of a name such as ``aten.add.Tensor``.

    Raises:
        AuditError: a start may not use it, or there is none.
    """
    space, _, rest = name.partition(".")
    base, _, overload = rest.rpartition(".")
    if space != "aten" or base not in OPERATORS:
        raise AuditError(
            "start",
            f"build makes first values with the operator {printable(name)}, which the harness does not replay.",
            allowed="Allowed: torch's draws, fills, views, arithmetic, sorting and matrix decompositions, on the CPU.",
            hint="Use torch.nn.init, or write it with such operators.",
        )
    found = _overloads(base).get(overload)
    if found is None:
        raise malformed(f"an operator {name[:60]!r}")
    return found


@functools.cache
def _overloads(base: str) -> Mapping[str, torch._ops.OpOverload]:
    """Return the variants of an operator that a recording can hold.

    TorchScript has more, on lists and texts; and what is composed of other operators is recorded as these.
    """
    packet = getattr(torch.ops.aten, base, None)
    found = {} if packet is None else {name: getattr(packet, name) for name in packet.overloads()}
    return {
        name: variant
        for name, variant in found.items()
        if torch._C._dispatch_has_kernel(variant.name())
        and not torch._C._dispatch_has_kernel_for_dispatch_key(variant.name(), "CompositeImplicitAutograd")
        and all(str(returned.real_type) in ("Tensor", "List[Tensor]") for returned in variant._schema.returns)
    }


def _fits(value: Any, kind: str, known: int) -> bool:
    """Whether a plain value can be an argument of this type in a schema."""
    if kind.startswith("Optional["):
        return value is None or _fits(value, kind[9:-1], known)
    if kind.startswith("List["):
        return isinstance(value, list) and all(_fits(each, kind[5:-1], known) for each in value)
    if kind == "Tensor":
        return _is_reference(value, known) or _fits(value, "number", known)  # torch takes a number for most tensors
    if kind in _ENUMS:
        return isinstance(value, dict) and set(value) == {_ENUMS[kind]}
    if kind == "number":
        return type(value) is bool or _fits(value, "float", known) or _fits(value, "complex", known)
    if kind == "complex":
        parts = value.get("complex") if isinstance(value, dict) else None
        return isinstance(parts, list) and len(parts) == 2 and all(_fits(part, "float", known) for part in parts)
    if kind == "float" and isinstance(value, dict):
        return set(value) == {"float"}
    if type(value) is int and abs(value) >= 2**63:
        return False
    return type(value) in _KINDS.get(kind, ()) and not (type(value) is str and len(value) > 20)


def _is_reference(value: object, known: int) -> bool:
    if not isinstance(value, dict) or set(value) != {"ref"}:
        return False
    number = value["ref"]
    return type(number) is int and 0 <= number < known


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
    return _state(program, results)


def _state(program: Program, results: Sequence[Tensor]) -> dict[str, Tensor]:
    def dense(value: Tensor) -> Tensor:
        return value.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)

    return {name: dense(results[value["ref"]]) for name, value in program["state"].items()}


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
    return torch.equal(_bytes(first), _bytes(second))


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().resolve_conj().resolve_neg().contiguous().flatten().view(torch.uint8)


@dataclass(frozen=True)
class Touched:
    """What a step touches: numbers of the results it reads and returns, and the memory that it reads and changes."""

    reads: tuple[int, ...]
    returns: tuple[int, ...]
    memory_read: frozenset[int]
    memory_changed: frozenset[int]


def needed(
    steps: Sequence[Touched], numbers: Iterable[int], memory: Iterable[int], always: frozenset[int]
) -> list[int]:
    """Return the steps on which results, or the contents of memory at the end, depend, in order.

    Args:
        steps: all steps.
        numbers: results that are needed.
        memory: memory that is needed.
        always: steps that are needed in any case.
    """
    wanted, live = set(numbers), set(memory)
    kept = []
    for index in range(len(steps) - 1, -1, -1):
        step = steps[index]
        if index in always or live & step.memory_changed or not wanted.isdisjoint(step.returns):
            kept.append(index)
            wanted.update(step.reads)
            live |= step.memory_read
    return kept[::-1]


def changed_memory(operator: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Return the tensors that an operator writes."""
    names = [argument.name for argument in operator._schema.arguments]
    given = dict(zip(names, args, strict=False)) | dict(kwargs)
    written = {a.name for a in operator._schema.arguments if a.alias_info is not None and a.alias_info.is_write}
    if operator._schema.name.partition("::")[2] in _NORMS and given.get("training"):
        written |= {"running_mean", "running_var"}  # its schema does not say so
    return list(tensors_in([given.get(name) for name in written]))


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested lists and dicts, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from tensors_in(each)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))


def memory_of(tensor: Tensor) -> int:
    """Return a number for the memory of a tensor, which is its own as long as the memory lives."""
    return int(tensor.untyped_storage()._cdata)


def run(program: Program, empty: float = 0.0) -> tuple[list[Tensor], list[Touched]]:
    """Return all results of a program, and what each step touched."""
    check_start(program)
    results = [_constant(constant) for constant in program["constants"]]
    touched: list[Touched] = []
    work = memory = 0
    held = {memory_of(tensor) for tensor in results}
    with torch.no_grad():
        for name, plain_args, plain_kwargs, outs in program["steps"]:
            reads = tuple(references([plain_args, plain_kwargs]))
            args, kwargs = (from_plain_arguments(plain, results) for plain in (plain_args, plain_kwargs))
            sources = [results[number] for number in reads]
            try:
                made, changed = _step(name, args, kwargs, empty)
            except AuditError:
                raise
            except Exception as error:  # torch raises many types for arguments that do not fit
                raise malformed(f"{name} raised {type(error).__name__}") from error
            if len(made) != outs:
                raise malformed(f"the number of results of {name}")
            work += sum(tensor.numel() for tensor in made) + _further_work(name, sources, made)
            new = {memory_of(each): each.untyped_storage().nbytes() for each in made if memory_of(each) not in held}
            held |= new.keys()
            memory += sum(new.values())
            if work > MOST_WORK or memory > MOST_MEMORY or any(tensor.numel() > MOST_ELEMENTS for tensor in made):
                raise _too_large(name)
            touched.append(
                Touched(
                    reads,
                    tuple(range(len(results), len(results) + outs)),
                    frozenset(map(memory_of, sources)),
                    frozenset(map(memory_of, changed)),
                )
            )
            results.extend(made)
    return results, touched


def _further_work(name: str, sources: Sequence[Tensor], made: Sequence[Tensor]) -> int:
    """Return what a product or decomposition of matrices takes, in elements of a plain operator: 64 products each."""
    if name.split(".")[1] not in _COSTLY or not sources or not made:
        return 0
    sizes = [sources[0].numel(), sources[-1].numel(), max(each.numel() for each in made)]
    return math.isqrt(math.prod(sizes)) // 64


def from_plain_arguments(plain: Any, results: Sequence[Tensor]) -> Any:
    """Return positional (a list) or named arguments (a dict by name) from their plain form."""
    if isinstance(plain, dict):
        return {name: from_plain(value, results.__getitem__) for name, value in plain.items()}
    return from_plain(plain, results.__getitem__)


def _step(name: str, args: list[Any], kwargs: dict[str, Any], empty: float) -> tuple[list[Tensor], list[Tensor]]:
    """Run one step; return its results and the tensors it has written."""
    if name == TRUNC_NORMAL:
        return [nn.init.trunc_normal_(*args)], args[:1]
    operator = operator_of(name)
    base = operator._schema.name.partition("::")[2]
    _refuse_growth(name, base, operator, args, kwargs)
    changed = changed_memory(operator, args, kwargs)
    made = list(tensors_in(operator(*args, **kwargs)))
    for tensor in made:
        if type(tensor) is not Tensor or tensor.device.type != "cpu" or tensor.layout != torch.strided:
            raise malformed(f"the result of {name}")
        if base in _EMPTY:
            tensor.fill_(empty)
    return made, changed


def _refuse_growth(
    name: str, base: str, operator: torch._ops.OpOverload, args: list[Any], kwargs: dict[str, Any]
) -> None:
    """Refuse a step with too large a result before it takes memory: it runs on tensors without memory first."""
    schema = operator._schema
    is_view = not schema.is_mutable and any(returned.alias_info is not None for returned in schema.returns)
    in_place = schema.is_mutable and not any(argument.is_out for argument in schema.arguments)
    if is_view or in_place:
        return
    sources = list(tensors_in([args, kwargs]))
    if base in _NORMS and any(each.shape != sources[0].shape[1:2] for each in sources[1:]):
        raise malformed(f"the sizes of {name}")
    if base.startswith(("linalg", "_linalg", "geqrf")) and sources and sources[0].numel() > 2**22:
        raise _too_large(name)
    if base in _SIZED_BY_VALUES and (base not in ("index", "_unsafe_index") or _has_mask(args)):
        _refuse_large_sources(name, sources)
        return
    shapes = {id(each): each.new_empty_strided(each.shape, each.stride(), device="meta") for each in sources}
    meta_args, meta_kwargs = (_replaced(value, shapes) for value in (args, kwargs))
    if any(argument.name == "device" for argument in schema.arguments):
        meta_kwargs["device"] = torch.device("meta")
    try:
        made = list(tensors_in(operator(*meta_args, **meta_kwargs)))
    except NotImplementedError:  # a matrix decomposition, whose results are not larger than its matrix
        _refuse_large_sources(name, sources)
        return
    if any(tensor.numel() > MOST_ELEMENTS for tensor in made):
        raise _too_large(name)


def _refuse_large_sources(name: str, sources: Sequence[Tensor]) -> None:
    if math.prod(max(1, each.numel()) for each in sources) > 2**40 or sources[0].numel() * 8 > MOST_ELEMENTS:
        raise _too_large(name)


def _has_mask(args: list[Any]) -> bool:
    return any(index.dtype in (torch.bool, torch.uint8) for index in tensors_in(args[1:]))


def _replaced(value: Any, tensors: Mapping[int, Tensor]) -> Any:
    if isinstance(value, Tensor):
        return tensors[id(value)]
    if isinstance(value, list):
        return [_replaced(each, tensors) for each in value]
    if isinstance(value, dict):
        return {key: _replaced(each, tensors) for key, each in value.items()}
    return value


def _too_large(name: str) -> AuditError:
    return AuditError(
        "start",
        f"build makes first values with {name} on too large a tensor, or after too many large ones.",
        allowed=f"Allowed: {MOST_ELEMENTS:,} numbers in one tensor, {MOST_MEMORY >> 20} MiB in all.",
        hint="Make only what the network stores.",
    )


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


def references(plain: Any) -> Iterator[int]:
    """Yield the numbers of the results to which plain arguments refer, in order."""
    if isinstance(plain, list):
        for each in plain:
            yield from references(each)
    elif isinstance(plain, dict):
        if "ref" in plain and len(plain) == 1 and type(plain["ref"]) is int:
            yield plain["ref"]
        else:
            yield from references(list(plain.values()))
