"""What a recording holds: the steps of a start, its constants, and the number of each value in memory.

A value belongs to the memory it lies in, not to a tensor object: `nn.Parameter` and ``.data`` make other objects over
the same memory. So a tensor is looked up by its memory and its layout there. In another layout it becomes a view of a
known value. Memory that no recorded step made becomes a constant, with its bytes at first sight.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from harness.errors import AuditError
from harness.submission.dependence import Touched, memory_of, needed
from harness.submission.plain import DTYPES
from harness.submission.start import MOST_STEPS, too_many_steps
from harness.submission.start_operators import TRUNC_NORMAL, operator_of

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

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
    draws: bool


class Tape:
    """The steps and constants that were recorded.

    Args:
        path: path of the recorded file, as its code objects have it.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._steps: list[_Step] = []
        self._constants: dict[int, dict[str, Any]] = {}
        self._results = 0
        self._values: dict[int, dict[Layout, int]] = {}
        self._alive: list[torch.UntypedStorage] = []

    def line(self) -> str:
        """Return ``path:line`` of the line of the file that runs now, or its path."""
        frame = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename != self._path:
            frame = frame.f_back  # type: ignore[assignment]
        return f"{self._path}:{frame.f_lineno}" if frame else self._path

    def append(
        self,
        name: str,
        plain: Plain | str,
        reads: Collection[int],
        sources: Iterable[Tensor] = (),
        changed: Iterable[Tensor] = (),
        made: Collection[Tensor] = (),
        draws: bool = False,
    ) -> None:
        """Record a step.

        Args:
            name: of the operator.
            plain: its arguments, or what among them has no plain form.
            reads: numbers of the values that it reads.
            sources: the tensors that it reads.
            changed: those that it changes.
            made: its results.
            draws: whether it has drawn random numbers.
        """
        touched = Touched.of(reads, range(self._results, self._results + len(made)), sources, changed)
        self._results += len(made)
        for number, tensor in zip(touched.returns, made, strict=True):
            self._values_in(tensor).setdefault(_layout(tensor), number)
        self._steps.append(_Step(name, plain, touched, self.line(), draws))

    def append_filled(self, target: Tensor, source: Tensor) -> bool:
        """Record the making of unknown memory that a copy is about to fill; return whether that records the copy too.

        `copy.deepcopy` copies memory, as bytes, into memory that it takes from below the operators.
        """
        if memory_of(target) in self._values or not _is_whole(target):
            return False
        with _disable_current_modes():
            if source.dtype == target.dtype and _is_whole(source) and source.nbytes == target.nbytes:
                for (dtype, shape, stride, *_), number in self._values.get(memory_of(source), {}).items():
                    copied = torch.empty(0, dtype=dtype).set_(target.untyped_storage(), 0, shape, stride)
                    if _is_whole(copied):
                        self.append("aten.clone.default", ([{"ref": number}], {}), [number], [source], made=[copied])
                        return True
            plain: Plain = ([[target.numel()]], {"dtype": {"dtype": DTYPE_NAMES[target.dtype]}})
            self.append("aten.empty.memory_format", plain, [], made=[target.view(-1)])
        return False

    def knows(self, tensor: Tensor) -> bool:
        """Whether there is a value in the memory of a tensor and in its layout."""
        return _layout(tensor) in self._values.get(memory_of(tensor), {})

    def number_of(self, tensor: Tensor) -> int:
        """Return the number of a tensor's value, after recording a constant or a view if there is none yet."""
        known = self._values_in(tensor)
        number = known.get(_layout(tensor))
        if number is not None:
            return number
        with _disable_current_modes(), torch.no_grad():
            if not known:
                return self._new_constant(tensor)
            base = next((number for (dtype, *_), number in known.items() if dtype == tensor.dtype), None)
            if base is None:
                base = self._retyped(tensor, known)
            size, stride, offset = list(tensor.shape), list(tensor.stride()), tensor.storage_offset()
            return self._view("aten.as_strided.default", [size, stride, offset], base, tensor)

    def add_constant(self, tensor: Tensor) -> int:
        """Record a contiguous tensor as a constant, whatever made it, and return its number."""
        number = self._results
        self._results += 1
        data = base64.b64encode(tensor.flatten().view(torch.uint8).numpy().tobytes()).decode()
        self._constants[number] = {"dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data": data}
        return number

    def _values_in(self, tensor: Tensor) -> dict[Layout, int]:
        """Return the known values in a tensor's memory, which is kept alive: an address is then never used twice."""
        memory = memory_of(tensor)
        if memory not in self._values:
            self._values[memory] = {}
            self._alive.append(tensor.untyped_storage())
        return self._values[memory]

    def _new_constant(self, tensor: Tensor) -> int:
        """Return the number of a new constant: the tensor, or if it is a part, of a view of the whole of its memory."""
        plain = tensor.detach()
        whole = _is_whole(plain)
        if not whole:
            plain = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
        number = self._values_in(tensor)[_layout(plain)] = self.add_constant(plain)
        return number if whole else self.number_of(tensor)

    def _retyped(self, tensor: Tensor, known: Mapping[Layout, int]) -> int:
        """Return the number of the whole of a tensor's memory, read in the tensor's type."""
        (dtype, *_), base = next(iter(known.items()))
        flat = torch.empty(0, dtype=dtype).set_(tensor.untyped_storage())
        number = known.get(_layout(flat))
        if number is None:
            number = self._view("aten.as_strided.default", [[flat.numel()], [1], 0], base, flat)
        return self._view("aten.view.dtype", [{"dtype": DTYPE_NAMES[tensor.dtype]}], number, flat.view(tensor.dtype))

    def _view(self, name: str, args: list[Any], base: int, result: Tensor) -> int:
        number = self._results
        self.append(name, ([{"ref": base}, *args], {}), [base], [result], made=[result])
        return number

    def program(self, state: Mapping[str, int], memory: Collection[int]) -> dict[str, Any]:
        """Return the program of the steps that are needed, with the results numbered anew.

        Args:
            state: for each tensor of the network the number of its value.
            memory: memory whose contents at the end are needed.

        Raises:
            AuditError: there are too many steps, or one of those that are needed is not allowed.
        """
        if len(self._steps) > 10 * MOST_STEPS:
            raise too_many_steps(len(self._steps))
        draws = [index for index, step in enumerate(self._steps) if step.draws]
        kept = needed([step.touched for step in self._steps], state.values(), memory, draws)
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
    named = {key: _renumbered(value, numbers) for key, value in kwargs.items()}
    return [step.name, _renumbered(args, numbers), named, len(step.touched.returns)]


def _renumbered(plain: Any, numbers: Mapping[int, int]) -> Any:
    if isinstance(plain, list):
        return [_renumbered(each, numbers) for each in plain]
    if isinstance(plain, dict):
        if set(plain) == {"ref"}:
            return {"ref": numbers[plain["ref"]]}
        return {key: _renumbered(each, numbers) for key, each in plain.items()}
    return plain


def _is_whole(tensor: Tensor) -> bool:
    """Whether a contiguous tensor fills its memory."""
    return tensor.is_contiguous() and tensor.nbytes == tensor.untyped_storage().nbytes()


def _layout(tensor: Tensor) -> Layout:
    place = (tuple(tensor.shape), tensor.stride(), tensor.storage_offset())
    return (tensor.dtype, *place, tensor.is_conj(), tensor.is_neg())
