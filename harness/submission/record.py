"""Record how a file makes the first values of its network, so that they can be made again for every seed.

While the file is executed, a `Recorder` sees every operator, and notes it on a `Tape`. Then `Recorder.program` returns
the steps that make the network's tensors, after replaying them: what it does not make again bit for bit is a constant.
"""

from __future__ import annotations

import functools
import linecache
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, Self
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from harness.errors import AuditError
from harness.submission.dependence import changed_memory, memory_of, references, tensors_in
from harness.submission.plain import NotPlain, to_plain
from harness.submission.replay import refuse_uninitialised, replay, same_bits
from harness.submission.start_operators import TRUNC_NORMAL
from harness.submission.tape import DTYPE_NAMES, Plain, Tape

_WINDS = re.compile(r"manual_seed|set_rng_state|fork_rng|\.seed\(|set_state|Generator")


class Recorder(TorchDispatchMode):
    """Records every operator on real tensors of the CPU while a file is executed and its network is built.

    Args:
        path: path of the file, as its code objects have it.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        self._tape = Tape(path)
        self._generator = torch.get_rng_state()
        self._problem: AuditError | None = None
        self._patches = ExitStack()

    def __enter__(self) -> Self:
        self._generator = torch.get_rng_state()
        draw = functools.partial(self._trunc_normal, nn.init._no_grad_trunc_normal_)
        self._patches.enter_context(patch.object(nn.init, "_no_grad_trunc_normal_", draw))
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
        sources = tensors_in([args, kwargs])
        reshapes = torch.Tag.inplace_view in func.tags and func.overloadpacket is not torch.ops.aten.resize_
        if reshapes or not all(map(_is_plain, sources)):
            return func(*args, **kwargs)  # a change of shape in place is seen in the layout of the tensor
        if func is torch.ops.aten.copy_.default and self._tape.append_filled(*args[:2]):
            return func(*args, **kwargs)
        plain, reads = self._plain(args, kwargs, sources)
        before = torch.get_rng_state()
        result = func(*args, **kwargs)
        made = tensors_in(result)
        if not all(map(_is_plain, made)):
            return result
        draws = self._has_drawn(before, kwargs.get("generator"))
        is_known = made and not func._schema.is_mutable and all(map(self._tape.knows, made))
        if draws or not is_known:  # else it is the same memory in the same layout, as detach returns it
            self._tape.append(str(func), plain, reads, sources, changed_memory(func, args, kwargs), made, draws)
        return result

    def _trunc_normal(self, draw: Callable[..., Tensor], tensor: Tensor, *args: Any, generator: Any = None) -> Tensor:
        """Record one step for `torch.nn.init.trunc_normal_`, which draws as often as the seed needs."""
        if not _is_plain(tensor):
            return draw(tensor, *args, generator=generator)
        with _disable_current_modes():
            number = self._tape.number_of(tensor)
            before = torch.get_rng_state()
            draw(tensor, *args, generator=generator)
            draws = self._has_drawn(before, generator)
            plain: Plain = ([{"ref": number}, *map(float, args)], {})
            self._tape.append(TRUNC_NORMAL, plain, [number], [tensor], [tensor], [tensor], draws)
        return tensor

    def _plain(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], sources: list[Tensor]
    ) -> tuple[Plain | str, list[int]]:
        """Return arguments as plain values, or what has no plain form, and the numbers of the values that they read."""

        def reference(value: Any) -> int | None:
            return self._tape.number_of(value) if isinstance(value, Tensor) else None

        try:
            named = {key: None if key == "generator" else to_plain(value, reference) for key, value in kwargs.items()}
            plain = to_plain([*args], reference), named
        except NotPlain as error:
            return str(error), [self._tape.number_of(source) for source in sources]
        return plain, [*references([*plain])]

    def _has_drawn(self, before: Tensor, generator: torch.Generator | None) -> bool:
        """Whether numbers were drawn since torch's generator was in this state; they must go on from the last ones."""
        after = torch.get_rng_state()
        if torch.equal(before, after):
            if generator is not None:
                self._refuse("draws from a random generator of its own")
            return False
        if not torch.equal(before, self._generator):
            self._refuse("reseeds or winds back torch's random generator")
        self._generator = after
        return True

    def _refuse(self, what: str) -> None:
        lines = linecache.getlines(self._path)
        found = [number for number, line in enumerate(lines, 1) if _WINDS.search(line)]
        self._problem = self._problem or AuditError(
            "start",
            f"The file {what}: its first weights would be the same for every seed.",
            where=f"{self._path}:{found[0]}" if found else self._tape.line(),
            allowed="First values are drawn from torch's own generator, which the harness seeds for each run.",
            hint="Remove manual_seed, generator= and fork_rng.",
        )

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
        state = {name: self._tape.number_of(tensor) for name, tensor in tensors.items()}
        memory = {name: memory_of(tensor) for name, tensor in tensors.items()}
        found = self._tape.program(state, {*memory.values()})
        with torch.random.fork_rng(devices=[]):
            reseed()
            again = replay(found)
            reseed()
            refuse_uninitialised(found)
        wrong = [name for name, tensor in tensors.items() if not same_bits(tensor, again[name])]
        if not wrong:
            return found
        for name in wrong:
            state[name] = self._tape.add_constant(tensors[name].detach().contiguous())
            del memory[name]
        return self._tape.program(state, {*memory.values()})


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is a real, dense one on the CPU, of a type that a submission may have."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and not isinstance(tensor, FakeTensor)
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and tensor.dtype in DTYPE_NAMES
    )
