"""Records how a file makes the first values of its network, so that they can be made again for every seed."""

from __future__ import annotations

import base64
import functools
import linecache
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

from harness.errors import AuditError
from harness.submission.patterns import made_from
from harness.submission.plain import DTYPES, NotPlain, to_plain
from harness.submission.start import (
    MOST_STEPS,
    TRUNC_NORMAL,
    Touched,
    changed_memory,
    memory_of,
    needed,
    operator_of,
    references,
    refuse_uninitialised,
    replay,
    same_bits,
    tensors_in,
    too_many_steps,
)

_NAMES = {dtype: name for name, dtype in DTYPES.items()}

_WINDS = re.compile(r"manual_seed|set_rng_state|fork_rng|\.seed\(|set_state|Generator")

Layout = tuple[Any, ...]
"""Type, shape, strides and offset of a tensor in its memory, and whether it is conjugated or negated."""

Plain = tuple[list[Any], dict[str, Any]]
"""Positional and named arguments of an operator as plain values."""


@dataclass(frozen=True)
class _Step:
    """A recorded operator; `plain` are its arguments, or what has no plain form."""

    name: str
    plain: Plain | str
    touched: Touched
    line: str


class Recorder(TorchDispatchMode):
    """Records every operator on real tensors of the CPU while a file is executed and its network is built.

    A value belongs to the memory it lies in, not to a tensor object: `nn.Parameter` and ``.data`` make other objects
    over the same memory. Memory that no recorded operator made is a constant, with its bytes at first sight.

    Args:
        path: path of the file, as its code objects have it.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        self._steps: list[_Step] = []
        self._constants: dict[int, dict[str, Any]] = {}
        self._results = 0
        self._draws: set[int] = set()
        self._memory: dict[int, torch.UntypedStorage] = {}  # kept alive: an address is then never used twice
        self._values: dict[int, dict[Layout, int]] = {}
        self._generator = torch.get_rng_state()
        self._problem: AuditError | None = None
        self._patches = ExitStack()

    def __enter__(self) -> Self:
        self._generator = torch.get_rng_state()
        draw = torch.nn.init._no_grad_trunc_normal_
        self._patches.enter_context(
            patch.object(torch.nn.init, "_no_grad_trunc_normal_", functools.partial(self._bounded, draw))
        )
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._patches.close()

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        sources = list(tensors_in([args, kwargs]))
        reshapes = torch.Tag.inplace_view in func.tags and func.overloadpacket is not torch.ops.aten.resize_
        if reshapes or not all(map(_is_plain, sources)):
            return func(*args, **kwargs)  # a change of shape in place is seen in the layout of the tensor
        if func is torch.ops.aten.copy_.default and self._make_room(*args[:2]):
            return func(*args, **kwargs)
        plain = self._plain(func, args, kwargs)
        reads = self._reads(plain, sources)
        before = torch.get_rng_state()
        result = func(*args, **kwargs)
        after = torch.get_rng_state()
        made = list(tensors_in(result))
        if not all(map(_is_plain, made)):
            return result
        draws = not torch.equal(before, after)
        if (
            not draws
            and not func._schema.is_mutable
            and made
            and all(self._number(tensor) is not None for tensor in made)
        ):
            return result  # the same memory in the same layout, as detach
        self._append(str(func), plain, reads, sources, changed_memory(func, args, kwargs), made)
        self._watch(before, after, kwargs.get("generator"))
        return result

    def _bounded(self, draw: Callable[..., Tensor], tensor: Tensor, *args: Any, generator: Any = None) -> Tensor:
        """Record one step for `torch.nn.init.trunc_normal_`, which draws as often as the seed needs."""
        if not _is_plain(tensor):
            return draw(tensor, *args, generator=generator)
        with torch.utils._python_dispatch._disable_current_modes():
            number = self._resolved(tensor)
            before = torch.get_rng_state()
            draw(tensor, *args, generator=generator)
            after = torch.get_rng_state()
            plain: Plain = ([{"ref": number}, *map(float, args)], {})
            self._append(TRUNC_NORMAL, plain, (number,), [tensor], [tensor], [tensor])
            self._watch(before, after, generator)
        return tensor

    def _watch(self, before: Tensor, after: Tensor, generator: torch.Generator | None) -> None:
        """Note a draw; it must go on from the last one, in torch's own generator, which `before` and `after` show."""
        if torch.equal(before, after):
            if generator is not None:
                self._refuse("draws from a random generator of its own")
            return
        self._draws.add(len(self._steps) - 1)
        if not torch.equal(before, self._generator):
            self._refuse("reseeds or winds back torch's random generator")
        self._generator = after

    def _refuse(self, what: str) -> None:
        lines = linecache.getlines(self._path)
        found = [number for number, line in enumerate(lines, 1) if _WINDS.search(line)]
        self._problem = self._problem or AuditError(
            "start",
            f"The file {what}: its first weights would be the same for every seed.",
            where=f"{self._path}:{found[0]}" if found else self._steps[-1].line,
            allowed="First values are drawn from torch's own generator, which the harness seeds for each run.",
            hint="Remove manual_seed, generator= and fork_rng.",
        )

    def _append(
        self,
        name: str,
        plain: Any,
        reads: tuple[int, ...],
        sources: list[Tensor],
        changed: list[Tensor],
        made: list[Tensor],
    ) -> None:
        returns = tuple(range(self._results, self._results + len(made)))
        self._results += len(made)
        for number, tensor in zip(returns, made, strict=True):
            self._keep(tensor).setdefault(_layout(tensor), number)
        touched = Touched(reads, returns, frozenset(map(memory_of, sources)), frozenset(map(memory_of, changed)))
        self._steps.append(_Step(name, plain, touched, self._line()))
        if len(self._steps) > 10 * MOST_STEPS and not self._problem:
            self._problem = too_many_steps(len(self._steps))

    def _plain(self, func: torch._ops.OpOverload, args: Any, kwargs: Any) -> Any:
        def reference(value: Any) -> int | None:
            return self._resolved(value) if isinstance(value, Tensor) else None

        try:
            return to_plain(list(args), reference), {
                key: to_plain(None if key == "generator" else value, reference) for key, value in kwargs.items()
            }
        except NotPlain as error:
            return str(error)

    def _reads(self, plain: Any, sources: list[Tensor]) -> tuple[int, ...]:
        if isinstance(plain, str):
            return tuple(self._resolved(source) for source in sources)
        return tuple(references(list(plain)))

    def _make_room(self, target: Tensor, source: Tensor) -> bool:
        """Record the making of unknown memory that a copy is about to fill, and whether that records the copy itself.

        `copy.deepcopy` copies memory, as bytes, into memory that it takes from below the operators.
        """
        if memory_of(target) in self._values or not _is_whole(target):
            return False
        with torch.utils._python_dispatch._disable_current_modes():
            if source.dtype == target.dtype and _is_whole(source) and source.nbytes == target.nbytes:
                for (dtype, shape, stride, *_), number in self._values.get(memory_of(source), {}).items():
                    copied = torch.empty(0, dtype=dtype).set_(target.untyped_storage(), 0, shape, stride)
                    if _is_whole(copied):
                        self._append("aten.clone.default", ([{"ref": number}], {}), (number,), [source], [], [copied])
                        return True
            plain: Plain = ([[target.numel()]], {"dtype": {"dtype": _NAMES[target.dtype]}})
            self._append("aten.empty.memory_format", plain, (), [], [], [target.view(-1)])
        return False

    def _keep(self, tensor: Tensor) -> dict[Layout, int]:
        memory = memory_of(tensor)
        self._memory.setdefault(memory, tensor.untyped_storage())
        return self._values.setdefault(memory, {})

    def _number(self, tensor: Tensor) -> int | None:
        return self._values.get(memory_of(tensor), {}).get(_layout(tensor))

    def _resolved(self, tensor: Tensor) -> int:
        """Return the number of a tensor's value, after recording a constant or a view if there is none yet."""
        known = self._keep(tensor)
        if not known:
            return self._as_constant(tensor)
        number = known.get(_layout(tensor))
        if number is not None:
            return number
        with torch.utils._python_dispatch._disable_current_modes(), torch.no_grad():
            base = next((n for (dtype, *_), n in known.items() if dtype == tensor.dtype), None)
            if base is None:
                base = self._as_type(tensor, known)
            size, stride, offset = list(tensor.shape), list(tensor.stride()), tensor.storage_offset()
            return self._view("aten.as_strided.default", [{"ref": base}, size, stride, offset], base, tensor)

    def _as_type(self, tensor: Tensor, known: dict[Layout, int]) -> int:
        (dtype, *_), base = next(iter(known.items()))
        flat = torch.empty(0, dtype=dtype).set_(tensor.untyped_storage())
        number = known.get(_layout(flat))
        if number is None:
            number = self._view("aten.as_strided.default", [{"ref": base}, [flat.numel()], [1], 0], base, flat)
        typed = flat.view(tensor.dtype)
        return self._view("aten.view.dtype", [{"ref": number}, {"dtype": _NAMES[tensor.dtype]}], number, typed)

    def _view(self, name: str, args: list[Any], base: int, result: Tensor) -> int:
        number = self._results
        self._append(name, (args, {}), (base,), [result], [], [result])
        return number

    def _as_constant(self, tensor: Tensor) -> int:
        """Return the number of a new constant: the tensor, or if it is a part, the whole of its memory."""
        with torch.utils._python_dispatch._disable_current_modes(), torch.no_grad():
            plain = tensor.detach()
            whole = _is_whole(plain)
            if not whole:
                plain = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
            number = self._results
            self._results += 1
            self._constants[number] = _constant(plain)
            self._keep(tensor)[_layout(plain)] = number
            return number if whole else self._resolved(tensor)

    def _line(self) -> str:
        frame = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename != self._path:
            frame = frame.f_back  # type: ignore[assignment]
        return f"{self._path}:{frame.f_lineno}" if frame else self._path

    def program(self, tensors: Mapping[str, Tensor], reseed: Callable[[], None]) -> dict[str, Any]:
        """Return the start program of these tensors; call it after the block.

        A tensor whose values the program does not make again bit for bit, because numpy wrote into its memory, is
        replaced by a constant.

        Args:
            tensors: parameters and buffers by name.
            reseed: seeds the random generators as before the file was executed.

        Raises:
            AuditError: the values cannot be made again: an operator is not allowed, memory was never written, or the
                file seeds a generator.
        """
        if self._problem:
            raise self._problem
        state = {name: self._resolved(tensor) for name, tensor in tensors.items()}
        memory = {memory_of(tensor) for tensor in tensors.values()}
        found = self._assembled(state, memory)
        with torch.random.fork_rng(devices=[]):
            reseed()
            again = replay(found)
            reseed()
            refuse_uninitialised(found)
        wrong = [name for name, tensor in tensors.items() if not same_bits(tensor, again[name])]
        if not wrong:
            return found
        for name in wrong:
            state[name] = self._results
            self._results += 1
            self._constants[state[name]] = _constant(tensors[name].detach().contiguous())
        return self._assembled(state, {memory_of(tensor) for name, tensor in tensors.items() if name not in wrong})

    def _assembled(self, state: Mapping[str, int], memory: set[int]) -> dict[str, Any]:
        """Return the program of the steps that are needed, with the results numbered anew."""
        kept = needed([step.touched for step in self._steps], state.values(), memory, frozenset(self._draws))
        steps = [self._steps[index] for index in kept]
        used = {number for step in steps for number in step.touched.reads} | set(state.values())
        constants = [number for number in self._constants if number in used]
        order = (*constants, *(number for step in steps for number in step.touched.returns))
        numbers = {old: new for new, old in enumerate(order)}
        return {
            "constants": [self._constants[number] for number in constants],
            "steps": [_written(step, numbers) for step in steps],
            "state": {name: {"ref": numbers[number]} for name, number in state.items()},
        }


def _written(step: _Step, numbers: Mapping[int, int]) -> list[Any]:
    try:
        if step.name != TRUNC_NORMAL:
            operator_of(step.name)
        if isinstance(step.plain, str):
            raise AuditError(
                "start",
                f"build makes first values with {step.name} and an argument that is not plain: {step.plain}.",
                allowed="Allowed: numbers, types, and tensors on the CPU.",
                hint="Use torch.nn.init.",
            )
    except AuditError as error:
        error.where = step.line
        raise
    args, kwargs = step.plain
    return [
        step.name,
        _renumbered(args, numbers),
        {key: _renumbered(value, numbers) for key, value in kwargs.items()},
        len(step.touched.returns),
    ]


def _renumbered(plain: Any, numbers: Mapping[int, int]) -> Any:
    if isinstance(plain, list):
        return [_renumbered(each, numbers) for each in plain]
    if isinstance(plain, dict):
        if set(plain) == {"ref"}:
            return {"ref": numbers[plain["ref"]]}
        return {key: _renumbered(each, numbers) for key, each in plain.items()}
    return plain


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is a real, dense one on the CPU, of a type that a submission may have."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and not isinstance(tensor, FakeTensor)
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and tensor.dtype in _NAMES
    )


def _is_whole(tensor: Tensor) -> bool:
    """Whether a contiguous tensor fills its memory."""
    return tensor.is_contiguous() and tensor.nbytes == tensor.untyped_storage().nbytes()


def _layout(tensor: Tensor) -> Layout:
    place = (tuple(tensor.shape), tensor.stride(), tensor.storage_offset())
    return (tensor.dtype, *place, tensor.is_conj(), tensor.is_neg())


def _constant(tensor: Tensor) -> dict[str, Any]:
    """Return a contiguous tensor as a constant of a program."""
    raw = tensor.flatten().view(torch.uint8).numpy().tobytes()
    data = base64.b64encode(raw).decode()
    return {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data": data}


def same_program(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two recordings are the same, so that the values of both follow from the seed alone."""
    return not differences(first, second)


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Return the tensors that two recordings under different seeds make differently.

    Where only the bytes of constants differ, as of weights drawn with numpy, these are the tensors made from them; else
    all of them.
    """
    if first == second:
        return []
    kinds = [[(each["dtype"], each["shape"]) for each in program["constants"]] for program in (first, second)]
    same = kinds[0] == kinds[1] and first["steps"] == second["steps"] and first["state"] == second["state"]
    if not same:
        return list(first["state"])
    changed = {
        n for n, pair in enumerate(zip(first["constants"], second["constants"], strict=True)) if pair[0] != pair[1]
    }
    return made_from(first, changed)
