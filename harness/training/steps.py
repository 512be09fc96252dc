"""The steps of one training: eager, compiled or captured as a CUDA graph.

`harness.training.fit` explains how they are used. A step reads the learning rate and its position in the epoch from
tensors on the device and returns nothing to the host. Compiled code is compared with the uncompiled network before it
is used.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F

from harness.audit import one_step
from harness.data import SIDE, Dataset, to_float
from harness.errors import ran_out_of_memory
from harness.events import Checkpoint
from harness.seeds import derive_seed, seed_everything
from harness.spec import REFERENCE, ComputeMode, Recipe
from harness.training.augment import DRAWS, augment, strength
from harness.training.capture import Lean, capture, forbidding_sync, in_any_order, own_randomness, own_stream
from harness.training.memory_layout import accelerate, delete_torn_code, without_kernels
from harness.training.optim import Average, make_optimizer
from harness.training.trial_input import blob_images, replace_zero_weights, tensors_by_name


class Miscompiled(Exception):
    """torch.compile or a kernel fails for a network, or computes a wrong gradient or statistic (see message)."""


_GRADIENT = "the gradient of "

AUGMENTED_TOGETHER = 10_000
"""Images that a GPU augments at a time: few kernels per epoch, and little enough memory for twenty runs at once."""


class Steps:
    """The steps of one training.

    A step reads its position from tensors and passes no number to the host, so that a GPU can capture it once and
    replay it. Its random numbers follow from the seeds of the epoch, whatever other runs share the device.

    Attributes:
        device: the device that trains.
        sizes: the number of images of each step of an epoch; only the last may be smaller.
        losses: (steps,) the loss of each step of the last epoch, on the device.

    Raises:
        Miscompiled: compiled code fails or is wrong.
        Uncapturable: a step cannot be captured as a CUDA graph.
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
        self._labels = torch.zeros_like(self._order)  # in the order of the epoch, like the predictions
        self._predictions = torch.zeros_like(self._order)
        self._draws = torch.zeros(len(images), DRAWS, device=device)
        self._strength = torch.ones((), device=device)
        self._rates = torch.zeros(len(self.sizes), device=device)
        # The step's number, and the positions of its images in the order; each step adds the stride.
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
        """Number of images of the last epoch classified correctly, in training mode, while the weights change."""
        return int(self._predictions.eq(self._labels).sum())

    def queue(self, seed: int, epoch: int, rates: Sequence[float]) -> None:
        """Run the steps of an epoch; on a GPU they are queued, and this returns before they are done.

        Args:
            seed: the seed of the training.
            epoch: number of the epoch, from 1.
            rates: the learning rate of each step.
        """
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
            seed_everything(seed, epoch, "network")  # dropout and other random operators of the network
        else:
            self._randomness.manual_seed(derive_seed(seed, epoch, "network"))
        for size in self.sizes:
            if replay := self._replays.get(size):
                replay()
            else:
                self._step(size)

    def checkpoint(self, epoch: int) -> Checkpoint:
        """Return the state after `epoch`, copied to the CPU."""
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
        """Restore the state of a checkpoint, in place: a captured step refers to tensors by their addresses."""
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
        self._set_learning_rate()
        self._optimizer.step()
        if self._average is not None:
            self._average.update()
        with in_any_order():
            self.losses.index_copy_(0, self._position, loss.detach().view(1))
            self._predictions.index_copy_(0, places, logits.argmax(1))
        self._cursor += self._stride

    def _set_learning_rate(self) -> None:
        """Put the rate of this step where the optimiser reads it, on the device."""
        torch.index_select(self._rates, 0, self._position, out=self._rate)

    def _normalised(self, rows: Tensor) -> Tensor:
        """Return the training images at `rows`, augmented and normalised: (N, 1, 28, 28)."""
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
        """Compile the network, and compare the compiled code with it; after any failure the caller trains uncompiled.

        Raises:
            Miscompiled: torch.compile fails, or its code is wrong.
        """
        while True:
            try:
                wrong = next(filter(None, (self._find_miscompiled(size) for size in sorted({*self.sizes}))), "")
                break
            except Exception as error:
                if ran_out_of_memory(error):
                    raise
                if not delete_torn_code(error):
                    said = str(error).strip().partition("\n")[0]
                    raise Miscompiled(f"torch.compile fails: {type(error).__name__}: {said}") from error
        if wrong:
            raise Miscompiled(f"torch.compile computes {wrong} incorrectly")

    def _find_miscompiled(self, size: int) -> str:
        """Return the name of a gradient or statistic whose error in compiled code exceeds rounding, or ''.

        Errors are norms of differences from the float32 result. Rounding alone gives the gradient of a norm layer of
        two channels a relative error of a quarter. So the error of each gradient, and of each buffer's update, may be
        four times that of the same network uncompiled, or half of its own norm, or 0.003 of the norm of all gradients.
        """
        assert isinstance(self._network, GraphModule)
        torchs = without_kernels(self._network)
        exact = self._one_step(torchs, size, rounds=False)
        rounded = self._one_step(torchs, size, rounds=True)
        if not all(move.isfinite().all() for move in (*exact.values(), *rounded.values())):
            return ""  # it is not finite without the compiler, either
        has_code = size == self._recipe.batch_size  # other sizes are not compiled, but use the kernels
        compiled = self._one_step(self._whole_batch if has_code else self._network, size, rounds=True)
        gradients = [move for name, move in exact.items() if name.startswith(_GRADIENT)]
        slack = 3e-3 * float(torch.cat(gradients).norm())
        for name, e in exact.items():
            error, rounding = float((compiled[name] - e).norm()), float((rounded[name] - e).norm())
            if not error <= max(4 * rounding, 0.5 * float(e.norm()), slack):
                return name
        return ""

    def _one_step(self, network: Callable[[Tensor], Tensor], size: int, rounds: bool) -> dict[str, Tensor]:
        """Return, flattened, each parameter's gradient and each buffer's update for a batch of synthetic images."""
        with self._restoring():
            self._load_reference()
            replace_zero_weights(self._network)
            before = {name: each.clone() for name, each in self._network.named_buffers() if each.is_floating_point()}
            self._optimizer.zero_grad()
            seen = one_step(
                self._network,
                lambda pixels: self._logits(network, pixels, rounds),
                blob_images(size, self.device),
                self._loss,
                derive_seed(0, 0, "network"),
            )
        trained = [(name, each) for name, each in self._network.named_parameters() if each.requires_grad]
        found = {f"{_GRADIENT}{name}": seen.get(f"gradient {name}", torch.zeros_like(each)) for name, each in trained}
        found.update({f"the statistic {name}": seen[f"buffer {name}"] - kept for name, kept in before.items()})
        return {name: move.flatten() for name, move in found.items()}

    @torch.no_grad()
    def _load_reference(self) -> None:
        """Copy the reference values into the network, so that what is decided with them does not depend on the seed."""
        own = tensors_by_name(self._network)
        for name, tensor in self._reference.items():
            own[name].copy_(tensor)

    @contextlib.contextmanager
    def _restoring(self) -> Iterator[None]:
        """Restore all state that steps change, also if one of them raises."""
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
        """Run a step of each batch size, so that lazily created state exists."""
        for size in sorted({*self.sizes}):
            self._cursor.copy_(self._start)
            self._step(size)

    def _capture(self) -> None:
        """Capture a step of each batch size as a CUDA graph with its own random generator.

        Raises:
            Uncapturable: a step waits for the device, or cannot be captured.
        """
        with own_randomness(self.device) as self._randomness, own_stream() as stream:
            with self._restoring():
                self._load_reference()
                for _ in range(2):
                    self._warm_up()
                with forbidding_sync():
                    self._warm_up()  # the third time: PyTorch's notes on CUDA graphs use three
            for size in sorted({*self.sizes}):
                self._optimizer.zero_grad()
                self._replays[size] = capture(functools.partial(self._step, size), stream)


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)
