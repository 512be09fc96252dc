"""The training loop. `fit` returns a generator: it yields one `Epoch` at a time and leaves the rest to its caller.

Reads top to bottom: random numbers, learning rates, optimiser, averaging, training. It knows no
tracker and no file. Every random number is a pure function of (seed, epoch, purpose), so an epoch can
be run again, or resumed at, with nothing saved but weights, buffers, averages and optimiser state.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F

from harness.data import SIDE, Dataset, to_float
from harness.errors import ran_out_of_memory
from harness.events import Checkpoint
from harness.spec import REFERENCE, ComputeMode, Recipe
from harness.training.augment import DRAWS, augment, strength
from harness.training.capture import Lean, capture, forbidding_sync, in_any_order, own_randomness, own_stream
from harness.training.memory_layout import accelerate, delete_torn_code, without_kernels
from harness.training.optim import Average, make_optimizer
from harness.training.seeds import derive_seed, seed_everything
from harness.training.trial_input import blob_images, replace_zero_weights, tensors_by_name


class Miscompiled(Exception):
    """torch.compile or a kernel fails at a network, or trains another network than this; it says which."""


_GRADIENT = "the gradient of "

AUGMENTED_TOGETHER = 10_000
"""Images that a GPU augments at a time: a whole epoch in few kernels, in memory that twenty runs have side by side."""


class Steps:
    """The steps of one training.

    A step reads where it stands from tensors and hands no number to the host, so that a GPU can capture it
    once and replay it. What it draws at random follows from its epoch's seeds, whoever trains beside it.
    """

    def __init__(
        self,
        network: nn.Module,
        dataset: Dataset,
        recipe: Recipe,
        mode: ComputeMode,
        average: Average | None,
        reference: Mapping[str, Tensor] | None = None,
    ) -> None:
        images, batch = dataset.train.images, recipe.batch_size
        self.device = device = images.device
        self.sizes = [min(batch, len(images) - start) for start in range(0, len(images), batch)]
        self.losses = torch.zeros(len(self.sizes), device=device)

        self._dataset, self._recipe, self._mode = dataset, recipe, mode
        self._network, self._average, self._reference = network, average, reference or {}
        self._whole_batch = accelerate(network, mode)
        self._lean: Lean | None = None
        if average:
            average.match_layout()
        self._rate = torch.zeros(1, device=device)
        self._optimizer = make_optimizer(network, recipe, mode.execution == "compiled")
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate.view(())

        self._order = torch.zeros(len(images), dtype=torch.int64, device=device)
        self._labels = torch.zeros_like(self._order)  # in the order of the epoch, as are the answers
        self._answers = torch.zeros_like(self._order)
        self._draws = torch.zeros(len(images), DRAWS, device=device)
        self._strength = torch.ones((), device=device)
        self._rates = torch.zeros(len(self.sizes), device=device)
        # The number of the step, and the places of its images in the order; a step moves all of them on.
        self._start = torch.cat([torch.zeros(1), torch.arange(max(self.sizes))]).to(device, torch.int64)
        self._stride = torch.cat([torch.ones(1), torch.full((max(self.sizes),), batch)]).to(device, torch.int64)
        self._cursor = self._start.clone()
        self._position, self._places = self._cursor[:1], self._cursor[1:]
        self._augments = False
        self._pixels = torch.zeros(0, device=device)

        self._randomness: torch.Generator | None = None
        self._replays: dict[int, Callable[[], None]] = {}
        if mode.execution == "compiled":
            self._compile()
        elif mode.execution == "captured":
            assert isinstance(network, GraphModule)
            self._pixels = torch.zeros(len(images), 1, SIDE, SIDE, device=device)
            self._lean = Lean(network, mode.precision == "bfloat16")
            self._capture()

    @property
    def correct(self) -> int:
        """Images of the last epoch that were classified rightly, in training mode, while the weights moved."""
        return int(self._answers.eq(self._labels).sum())

    def queue(self, seed: int, epoch: int, rates: Sequence[float]) -> None:
        """Take the steps of an epoch; on a GPU they are queued, and this returns long before they are done."""
        order, augmentation = (derive_seed(seed, epoch, purpose) for purpose in ("order", "augment"))
        generator = torch.Generator(self.device)
        self._order.copy_(torch.randperm(len(self._order), generator=generator.manual_seed(order), device=self.device))
        self._labels.copy_(self._dataset.train.labels[self._order])
        self._draws.uniform_(generator=generator.manual_seed(augmentation))
        self._augments = self._recipe.augments and strength(self._recipe, epoch) > 0
        self._strength.fill_(strength(self._recipe, epoch))
        self._rates.copy_(torch.tensor(rates))
        self._cursor.copy_(self._start)
        if len(self._pixels):
            parts = zip(self._pixels.split(AUGMENTED_TOGETHER), self._order.split(AUGMENTED_TOGETHER), strict=True)
            for part, rows in parts:
                part.copy_(self._normalised(rows))
        if self._randomness is None:
            seed_everything(seed, epoch, "network")  # dropout and whatever else the network draws
        else:
            self._randomness.manual_seed(derive_seed(seed, epoch, "network"))
        for size in self.sizes:
            if replay := self._replays.get(size):
                replay()
            else:
                self._step(size)

    def checkpoint(self, epoch: int) -> Checkpoint:
        """Return a copy, on the CPU, of everything that the steps have moved."""
        return Checkpoint(
            epoch=epoch,
            network={name: _copied(tensor) for name, tensor in self._network.state_dict().items()},
            average={name: _copied(tensor) for name, tensor in self._averages.items()},
            optimizer=[
                {name: _copied(value) for name, value in self._optimizer.state[parameter].items() if value is not None}
                for parameter in self._trained
            ],
        )

    @torch.no_grad()
    def restore(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint over everything that the steps move; in place, as a captured step knows it by address."""
        for current, kept in ((self._network.state_dict(), checkpoint.network), (self._averages, checkpoint.average)):
            for name, tensor in current.items():
                tensor.copy_(kept[name])
        for parameter, moments in zip(self._trained, checkpoint.optimizer, strict=True):
            state = self._optimizer.state[parameter]
            for name, kept_value in moments.items():
                if name in state:
                    state[name].copy_(kept_value)
                else:
                    state[name] = kept_value.to(parameter.device, copy=True)

    @property
    def _averages(self) -> dict[str, Tensor]:
        return self._average.state if self._average else {}

    @property
    def _trained(self) -> list[Tensor]:
        return [parameter for group in self._optimizer.param_groups for parameter in group["params"]]

    def _step(self, size: int) -> None:
        places = self._places[:size]
        pixels = self._pixels.index_select(0, places) if len(self._pixels) else self._normalised(self._order[places])
        labels = self._labels[places]
        by_size = self._whole_batch if size == self._recipe.batch_size else self._network
        logits = self._logits(self._lean or by_size, pixels)
        loss = self._loss(logits, labels)
        self._optimizer.zero_grad()
        loss.backward()
        if self._lean:
            self._lean.widen_gradients()
        torch.index_select(self._rates, 0, self._position, out=self._rate)
        self._optimizer.step()
        if self._average is not None:
            self._average.update()
        with in_any_order():
            self.losses.index_copy_(0, self._position, loss.detach().view(1))
            self._answers.index_copy_(0, places, logits.argmax(1))
        self._cursor += self._stride

    def _normalised(self, rows: Tensor) -> Tensor:
        """Return training images (N, 1, 28, 28) as the network sees them, augmented by the draws of the epoch."""
        pixels = to_float(self._dataset.train.images[rows])
        if self._augments:
            pixels = augment(pixels, self._draws[rows], self._recipe, self._strength, self._mode == REFERENCE)
        return self._dataset.normalise(pixels)

    def _logits(self, network: Callable[[Tensor], Tensor], pixels: Tensor, rounds: bool = True) -> Tensor:
        rounds = rounds and self._mode.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=rounds):
            return network(pixels).float()

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=self._recipe.label_smoothing)

    def _compile(self) -> None:
        """Compile, and compare what came of it with the network; whatever goes wrong, it trains uncompiled instead."""
        while True:
            try:
                wrong = next(filter(None, (self._find_miscompiled(size) for size in sorted({*self.sizes}))), "")
                break
            except Exception as error:
                if ran_out_of_memory(error):
                    raise
                if not delete_torn_code(error):
                    said = str(error).strip().partition("\n")[0]
                    raise Miscompiled(f"torch.compile fails at it: {type(error).__name__}: {said}") from error
        if wrong:
            raise Miscompiled(f"torch.compile gets {wrong} wrong")

    def _find_miscompiled(self, size: int) -> str:
        """Name a gradient or statistic that compiled code takes further from the exact than rounding explains, or none.

        Rounding alone takes the gradient of a norm of two channels a quarter of its length away. So each gradient, and
        the way of each buffer, may be four times as far off as those of the same network uncompiled, or half of their
        own length, or three thousandths of the length of all gradients together.
        """
        assert isinstance(self._network, GraphModule)
        torchs = without_kernels(self._network)
        exact = self._one_step(torchs, size, rounds=False)
        rounded = self._one_step(torchs, size, rounds=True)
        if not all(move.isfinite().all() for move in (*exact.values(), *rounded.values())):
            return ""  # a broken network, or one that breaks in bfloat16, is not the compiler's fault
        has_code = size == self._recipe.batch_size  # else there are our kernels alone
        compiled = self._one_step(self._whole_batch if has_code else self._network, size, rounds=True)
        gradients = [move for name, move in exact.items() if name.startswith(_GRADIENT)]
        slack = 3e-3 * float(torch.cat(gradients).norm())
        for name, e in exact.items():
            far, rounding = float((compiled[name] - e).norm()), float((rounded[name] - e).norm())
            if not far <= max(4 * rounding, 0.5 * float(e.norm()), slack):
                return name
        return ""

    def _one_step(self, network: Callable[[Tensor], Tensor], size: int, rounds: bool) -> dict[str, Tensor]:
        """Return, flat, the gradient of each parameter and the way of each buffer on a batch of made-up images."""
        pixels, labels = blob_images(size, self.device), torch.arange(size, device=self.device) % 10
        with self._restoring():
            self._load_reference()
            replace_zero_weights(self._network)
            buffers = {name: each for name, each in self._network.named_buffers() if each.is_floating_point()}
            before = {name: buffer.clone() for name, buffer in buffers.items()}
            seed_everything(0, 0, "network")  # dropout's masks are the same each time
            self._optimizer.zero_grad()
            self._loss(self._logits(network, pixels, rounds), labels).backward()
            found = {
                f"{_GRADIENT}{name}": torch.zeros_like(p) if p.grad is None else p.grad
                for name, p in self._network.named_parameters()
                if p.requires_grad
            }
            found.update({f"the statistic {name}": buffer - before[name] for name, buffer in buffers.items()})
        return {name: move.flatten() for name, move in found.items()}

    @torch.no_grad()
    def _load_reference(self) -> None:
        """Put the reference numbers in place of the network's own: what is decided with them no seed has a part in."""
        own = tensors_by_name(self._network)
        for name, tensor in self._reference.items():
            own[name].copy_(tensor)

    @contextlib.contextmanager
    def _restoring(self) -> Iterator[None]:
        """Put back what steps have moved, also where one of them fails."""
        moved = [*tensors_by_name(self._network).values(), *self._averages.values()]
        before = [tensor.detach().clone() for tensor in moved]
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, kept in zip(moved, before, strict=True):
                    tensor.copy_(kept)
                for state in self._optimizer.state.values():
                    for tensor in state.values():
                        if isinstance(tensor, Tensor):
                            tensor.zero_()

    def _warm_up(self) -> None:
        """Take a step of each size: what is set up in the first ones is then there."""
        for size in sorted({*self.sizes}):
            self._cursor.copy_(self._start)
            self._step(size)

    def _capture(self) -> None:
        """Capture a step of each size as a CUDA graph, with random numbers of its own."""
        with own_randomness(self.device) as self._randomness, own_stream() as stream:
            with self._restoring():
                self._load_reference()
                for _ in range(2):
                    self._warm_up()
                with forbidding_sync():
                    self._warm_up()  # the third time: as many as torch's own notes on CUDA graphs take
            for size in sorted({*self.sizes}):
                self._optimizer.zero_grad()
                self._replays[size] = capture(functools.partial(self._step, size), stream)


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)
