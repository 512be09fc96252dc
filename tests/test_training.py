import math
import random
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from audited import exports, train_graph
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    SequentialLR,
    StepLR,
)
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from harness.data import Dataset, Split, to_float
from harness.errors import DivergedError
from harness.events import Checkpoint, Epoch
from harness.spec import REFERENCE, ComputeMode, Recipe
from harness.training import Average, derive_seed, fit, learning_rates, make_optimizer, seed_everything
from harness.training.augment import DRAWS, augment

COUNT = 70
RECIPE = Recipe(epochs=3, batch_size=32, lr=0.05)
"""Three epochs of 32 + 32 + 6 images."""


def fake_dataset(count: int = COUNT) -> Dataset:
    """Return images that can be learned: the brightest of ten bands is the label; image i says i in its corner."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (count,), generator=generator)
    images = torch.randint(0, 120, (count, 28, 28), dtype=torch.uint8, generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[2 * label + 2 : 2 * label + 4] += 130
    images[:, 0, 0] = torch.arange(count, dtype=torch.uint8)
    split = Split(images, labels)
    return Dataset("made up", "", 0.3, 0.3, False, split, split)


DATASET = fake_dataset()


def network(dropout: float = 0.2, seed: int = 0) -> nn.Sequential:
    """Return a small network, the same one every time, in training mode."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=4),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Linear(4 * 6 * 6, 10),
    )


def trained(recipe: Recipe = RECIPE, seed: int = 0, dropout: float = 0.2) -> tuple[nn.Module, list[Epoch]]:
    fresh = network(dropout)
    return fresh, epochs_of(fit(fresh, DATASET, recipe, seed))


def epochs_of(events: Iterable[Epoch | Checkpoint | None]) -> list[Epoch]:
    """Let a fit run to its end."""
    return [event for event in events if isinstance(event, Epoch)]


def same_bits(left: nn.Module | Mapping[str, Tensor], right: nn.Module | Mapping[str, Tensor]) -> bool:
    states = [side.state_dict() if isinstance(side, nn.Module) else side for side in (left, right)]
    return all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def numbers(epochs: list[Epoch]) -> list[Epoch]:
    """Return epochs without their times."""
    return [replace(epoch, seconds=0, images_per_second=0, wall_seconds=None) for epoch in epochs]


class Recorder(nn.Module):
    """A network that remembers every batch it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(784, 10)
        self.batches: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append(images.detach().clone())
        return self.linear(images.flatten(1))

    def epochs(self, steps: int) -> Iterator[Tensor]:
        """Yield all images of each epoch in the order they came."""
        for start in range(0, len(self.batches), steps):
            yield torch.cat(self.batches[start : start + steps])


class BreaksAt(nn.Module):
    """A network whose answers are not numbers from the given step (from 1) on."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.linear = nn.Linear(784, 10)
        self.step = step
        self.steps = 0

    def forward(self, images: Tensor) -> Tensor:
        self.steps += 1
        return self.linear(images.flatten(1)) * (math.nan if self.steps >= self.step else 1.0)


# --- random numbers ---------------------------------------------------------------------------------------

seeds = st.integers(0, 2**31)
epochs = st.integers(0, 100)
purposes = st.sampled_from(["weights", "network", "order", "augment"])


@given(seed=seeds, epoch=epochs, purpose=purposes)
def test_derived_seed_is_63_bits_and_stateless(seed: int, epoch: int, purpose: str) -> None:
    before = derive_seed(seed, epoch, purpose)
    torch.rand(1)
    assert derive_seed(seed, epoch, purpose) == before
    assert 0 <= before < 2**63


def test_derived_seeds_match_recorded_values() -> None:
    assert derive_seed(0, 1, "order") == 7_869_624_158_837_258_281
    assert derive_seed(7, 19, "network") == 7_711_747_277_151_628_933


def test_derived_seeds_are_distinct() -> None:
    found = {derive_seed(s, e, p) for s in range(125) for e in range(20) for p in ("weights", "network", "order", "x")}
    assert len(found) == 125 * 20 * 4


@given(seed=seeds, epoch=epochs)
@settings(max_examples=20)
def test_seeding_reaches_torch_numpy_and_python(seed: int, epoch: int) -> None:
    drawn = []
    for _ in range(2):
        seed_everything(seed, epoch, "network")
        drawn.append((torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()))
    assert drawn[0] == drawn[1]
    seed_everything(seed, epoch + 1, "network")
    other = (torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random())
    assert all(one != two for one, two in zip(drawn[0], other, strict=True))


# --- learning rates ---------------------------------------------------------------------------------------


def torchs(scheduler: type[LRScheduler], recipe: Recipe, steps: int, **options: Any) -> list[float]:
    """Return the rates torch's own scheduler sets, stepped once a batch."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=recipe.lr)
    return rates_of(scheduler(optimizer, **options), optimizer, recipe.epochs * steps)


def rates_of(scheduler: LRScheduler, optimizer: torch.optim.Optimizer, total: int) -> list[float]:
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for step in range(total):
            if step:
                optimizer.step()
                scheduler.step()
            rates.append(float(optimizer.param_groups[0]["lr"]))
    return rates


def close(left: list[float], right: list[float], recipe: Recipe, tolerance: float) -> bool:
    """Whether two tables agree to `tolerance`, as a share of the highest rate."""
    return all(abs(one - two) <= tolerance * recipe.lr for one, two in zip(left, right, strict=True))


lengths = {"epochs": st.integers(1, 20), "steps": st.integers(1, 12), "lr": st.floats(1e-4, 10)}


@given(**lengths)
@settings(max_examples=30)
def test_constant_schedule_is_constant(epochs: int, steps: int, lr: float) -> None:
    assert learning_rates(Recipe(epochs=epochs, lr=lr), steps) == [lr] * (epochs * steps)


@given(**lengths, every=st.integers(1, 12), gamma=st.floats(0, 1))
@settings(max_examples=30)
def test_step_schedule_matches_torch(epochs: int, steps: int, lr: float, every: int, gamma: float) -> None:
    recipe = Recipe(epochs=epochs, lr=lr, schedule="step", step_epochs=every, step_gamma=gamma)
    wanted = torchs(StepLR, recipe, steps, step_size=every * steps, gamma=gamma)
    assert close(learning_rates(recipe, steps), wanted, recipe, 1e-12)


@given(**lengths)
@settings(max_examples=30)
def test_cosine_schedule_matches_torch(epochs: int, steps: int, lr: float) -> None:
    recipe = Recipe(epochs=epochs, lr=lr, schedule="cosine")
    wanted = torchs(CosineAnnealingLR, recipe, steps, T_max=epochs * steps)
    assert close(learning_rates(recipe, steps), wanted, recipe, 1e-10)  # torch's is a running product


@given(**lengths)
@settings(max_examples=30)
def test_linear_schedule_matches_torch(epochs: int, steps: int, lr: float) -> None:
    recipe = Recipe(epochs=epochs, lr=lr, schedule="linear")
    wanted = torchs(LinearLR, recipe, steps, start_factor=1.0, end_factor=0.0, total_iters=epochs * steps)
    assert close(learning_rates(recipe, steps), wanted, recipe, 1e-10)  # torch's is a running product


@given(lr=lengths["lr"], epochs=st.integers(2, 20), steps=st.integers(4, 12), rising=st.integers(0, 19))
@settings(max_examples=40)
def test_one_cycle_schedule_matches_torch(epochs: int, steps: int, lr: float, rising: int) -> None:
    assume(rising < epochs)
    recipe = Recipe(epochs=epochs, lr=lr, schedule="one-cycle", warmup_epochs=rising)
    share = rising / epochs if rising else 0.3
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = OneCycleLR(optimizer, lr, total_steps=epochs * steps, pct_start=share, cycle_momentum=False)
    wanted = rates_of(scheduler, optimizer, epochs * steps)
    assert close(learning_rates(recipe, steps), wanted, recipe, 1e-12)


@given(epochs=st.integers(2, 10), steps=st.integers(2, 12), data=st.data())
@settings(max_examples=30)
def test_warm_up_rises_linearly_before_the_schedule(epochs: int, steps: int, data: st.DataObject) -> None:
    warm_epochs = data.draw(st.integers(1, epochs - 1))
    warm, total = warm_epochs * steps, epochs * steps
    recipe = Recipe(epochs=epochs, lr=0.5, schedule="cosine", warmup_epochs=warm_epochs)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    rise = LinearLR(optimizer, start_factor=1 / warm, end_factor=1.0, total_iters=warm - 1)
    fall = CosineAnnealingLR(optimizer, T_max=total - warm)
    wanted = rates_of(SequentialLR(optimizer, [rise, fall], [warm]), optimizer, total)
    found = learning_rates(recipe, steps)
    assert found[0] == pytest.approx(0.5 / warm)
    assert found[warm - 1] == found[warm] == 0.5
    assert close(found, wanted, recipe, 1e-9)  # torch's are running products


def test_step_schedule_counts_warm_up_epochs() -> None:
    recipe = Recipe(epochs=4, lr=1.0, schedule="step", step_epochs=2, step_gamma=0.1, warmup_epochs=0.5)
    assert learning_rates(recipe, 4) == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 1] + [0.1] * 8)


def test_fractional_warm_up_is_rounded() -> None:
    assert learning_rates(Recipe(epochs=1, lr=1.0, warmup_epochs=0.5), 3) == [0.5, 1.0, 1.0]


@given(
    epochs=st.integers(1, 20),
    steps=st.integers(1, 12),
    schedule=st.sampled_from(["constant", "step", "one-cycle", "cosine", "linear"]),
    warm_share=st.floats(0, 1),
)
def test_every_schedule_stays_within_lr(epochs: int, steps: int, schedule: str, warm_share: float) -> None:
    recipe = Recipe(epochs=epochs, lr=0.3, schedule=schedule, warmup_epochs=warm_share * epochs)
    rates = learning_rates(recipe, steps)
    assert len(rates) == epochs * steps
    assert all(0 < rate <= 0.3 * (1 + 1e-12) for rate in rates)


# --- optimiser --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_norms_and_biases_do_not_decay(optimizer: str) -> None:
    fresh = network()
    decays = {
        id(parameter): group["weight_decay"]
        for group in make_optimizer(fresh, Recipe(optimizer=optimizer, weight_decay=0.1)).param_groups
        for parameter in group["params"]
    }
    assert {name: decays[id(parameter)] for name, parameter in fresh.named_parameters()} == {
        "0.weight": 0.1,
        "0.bias": 0.0,
        "1.weight": 0.0,
        "1.bias": 0.0,
        "5.weight": 0.1,
        "5.bias": 0.0,
    }


def test_frozen_parameters_are_not_optimised() -> None:
    fresh = network()
    fresh[5].weight.requires_grad_(False)
    groups = make_optimizer(fresh, Recipe()).param_groups
    assert id(fresh[5].weight) not in {id(parameter) for group in groups for parameter in group["params"]}


def test_recipe_reaches_sgd() -> None:
    made = make_optimizer(network(), Recipe(lr=0.3, momentum=0.8, nesterov=True))
    assert type(made) is torch.optim.SGD
    for group in made.param_groups:
        assert (group["lr"], group["momentum"], group["nesterov"], group["dampening"]) == (0.3, 0.8, True, 0)


def test_recipe_reaches_adamw() -> None:
    made = make_optimizer(network(), Recipe(optimizer="adamw", lr=0.3, momentum=0.8))
    assert type(made) is torch.optim.AdamW
    assert all((group["lr"], group["betas"]) == (0.3, (0.8, 0.999)) for group in made.param_groups)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_real_parameters_use_the_fused_update(optimizer: str, dtype: torch.dtype) -> None:
    odd = nn.ParameterList([torch.ones(3), torch.ones(3, dtype=dtype)])
    for parameter in odd:
        parameter.grad = torch.ones_like(parameter)
    made = make_optimizer(odd, Recipe(optimizer=optimizer), fused=True)
    made.step()
    assert made.defaults["fused"] is (True if dtype is torch.float32 else None)


# --- averaging --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_average_matches_torch_ema_with_buffers(decay: float) -> None:
    fresh = network()
    average = Average(fresh, decay)
    torchs_own = AveragedModel(fresh, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    torchs_own.update_parameters(fresh)  # its first call copies
    for step in range(5):
        seed_everything(0, step, "noise")
        with torch.no_grad():
            fresh(torch.randn(8, 1, 28, 28))  # moves the running statistics
            for parameter in fresh.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update()
        torchs_own.update_parameters(fresh)
    for name, tensor in torchs_own.module.state_dict().items():
        if tensor.is_floating_point():
            assert torch.equal(average.state[name], tensor), name
    assert not torch.equal(average.state["0.weight"], fresh.state_dict()["0.weight"])


def test_counts_are_copied_not_averaged() -> None:
    fresh = network()
    average = Average(fresh, 0.9)
    for _ in range(3):
        fresh(torch.randn(8, 1, 28, 28))
        average.update()
    assert int(average.state["1.num_batches_tracked"]) == 3


def test_fit_updates_average_after_every_step() -> None:
    fresh = network()
    average = Average(fresh, 0.5)
    by_hand = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    recipe = replace(RECIPE, epochs=2, batch_size=COUNT)  # one step an epoch
    for epoch in fit(fresh, DATASET, recipe, 0, average=average):
        if epoch is None:  # its only step is taken, its numbers are yet to come
            continue
        for name, tensor in fresh.state_dict().items():
            by_hand[name] = (by_hand[name] + tensor) / 2 if tensor.is_floating_point() else tensor.clone()
    for name, tensor in by_hand.items():
        assert torch.allclose(average.state[name], tensor, rtol=0, atol=1e-6), name


def test_averaging_does_not_change_training() -> None:
    fresh = network()
    average = Average(fresh, 0.9)
    seen = epochs_of(fit(fresh, DATASET, RECIPE, 0, average=average))
    plain, unaveraged = trained()
    assert same_bits(fresh, plain)
    assert numbers(seen) == numbers(unaveraged)


# --- training ---------------------------------------------------------------------------------------------


def plain_loop(recipe: Recipe, seed: int) -> tuple[nn.Module, list[float], list[int]]:
    """Train with the plain textbook loop; return the network, and each epoch's loss and right answers."""
    fresh = network(dropout=0.0)
    optimizer = torch.optim.SGD(fresh.parameters(), lr=recipe.lr, momentum=recipe.momentum)
    images = (DATASET.train.images.float()[:, None] / 255 - DATASET.mean) / DATASET.std
    rates = iter(learning_rates(recipe, math.ceil(COUNT / recipe.batch_size)))
    losses, right = [], []
    for epoch in range(1, recipe.epochs + 1):
        order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(derive_seed(seed, epoch, "order")))
        loss_sum, correct = 0.0, 0
        for start in range(0, COUNT, recipe.batch_size):
            batch = order[start : start + recipe.batch_size]
            logits = fresh(images[batch])
            loss = F.cross_entropy(logits, DATASET.train.labels[batch])
            optimizer.param_groups[0]["lr"] = next(rates)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.item() * len(batch)
            correct += int((logits.argmax(1) == DATASET.train.labels[batch]).sum())
        losses.append(loss_sum / COUNT)
        right.append(correct)
    return fresh, losses, right


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("batch_size", [32, 35, COUNT, 100])
def test_fit_matches_plain_loop_bit_for_bit(batch_size: int, schedule: str) -> None:
    recipe = replace(RECIPE, batch_size=batch_size, schedule=schedule)
    by_hand, losses, right = plain_loop(recipe, seed=3)
    fitted, seen = trained(recipe, seed=3, dropout=0.0)
    assert same_bits(fitted, by_hand)
    assert [epoch.train_loss for epoch in seen] == pytest.approx(losses, rel=1e-12)
    assert [epoch.train_accuracy for epoch in seen] == [count / COUNT for count in right]


def test_every_epoch_uses_every_image_once() -> None:
    recorder = Recorder()
    list(fit(recorder, DATASET, RECIPE, 0))
    assert [len(batch) for batch in recorder.batches] == [32, 32, 6] * 3
    orders = []
    for images in recorder.epochs(steps=3):
        corner = (images[:, 0, 0, 0] * DATASET.std + DATASET.mean) * 255
        orders.append(corner.round().int().tolist())
    assert all(sorted(order) == list(range(COUNT)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def test_images_are_normalised_without_augmentation() -> None:
    recorder = Recorder()
    list(fit(recorder, DATASET, replace(RECIPE, epochs=1), 0))
    (images,) = recorder.epochs(steps=3)
    wanted = DATASET.normalise(to_float(DATASET.train.images))
    assert torch.equal(images[images[:, 0, 0, 0].argsort()], wanted)


def test_augmentation_moves_images_until_fade_ends() -> None:
    recorder = Recorder()
    list(fit(recorder, DATASET, replace(RECIPE, epochs=3, translate=0.5, augment_fade=1), 0))
    plain = DATASET.normalise(to_float(DATASET.train.images))
    first, second, last = recorder.epochs(steps=3)
    assert torch.equal(last[last[:, 0, 0, 0].argsort()], plain)
    moved = [
        {tuple(image) for image in images.flatten(1).tolist()} & {tuple(image) for image in plain.flatten(1).tolist()}
        for images in (first, second)
    ]
    assert moved == [set(), set()]
    black = DATASET.normalise(torch.zeros(()))
    assert torch.allclose(first.amin(), black)


def test_augmentation_draws_per_image_and_epoch() -> None:
    recorder = Recorder()
    recipe = replace(RECIPE, epochs=2, rotation=30, translate=0.2, zoom_p=0.5)
    list(fit(recorder, DATASET, recipe, seed=4))
    for epoch, images in enumerate(recorder.epochs(steps=3), 1):
        generators = {p: torch.Generator().manual_seed(derive_seed(4, epoch, p)) for p in ("order", "augment")}
        order = torch.randperm(COUNT, generator=generators["order"])
        draws = torch.rand(COUNT, DRAWS, generator=generators["augment"])
        wanted = DATASET.normalise(augment(to_float(DATASET.train.images), draws, recipe))
        assert torch.allclose(images, wanted[order], rtol=0, atol=1e-4)


def test_epochs_report_their_number_rate_and_time() -> None:
    recipe = replace(RECIPE, schedule="cosine")
    _, seen = trained(recipe)
    rates = learning_rates(recipe, 3)
    assert [epoch.number for epoch in seen] == [1, 2, 3]
    assert [epoch.lr for epoch in seen] == [rates[2], rates[5], rates[8]]
    assert all(epoch.seconds > 0 for epoch in seen)
    assert all(epoch.images_per_second == pytest.approx(COUNT / epoch.seconds) for epoch in seen)
    assert all(epoch.held_out_loss is None and epoch.held_out_accuracy is None for epoch in seen)


def test_training_learns() -> None:
    _, seen = trained(replace(RECIPE, epochs=15), dropout=0.0)
    assert seen[-1].train_loss < 0.2 * seen[0].train_loss
    assert seen[-1].train_accuracy > 0.95


AUGMENTED = replace(RECIPE, rotation=10, zoom_p=0.3, schedule="one-cycle", label_smoothing=0.1, ema=0.9)


@pytest.mark.parametrize("recipe", [RECIPE, AUGMENTED, replace(RECIPE, optimizer="adamw", weight_decay=0.1)])
def test_only_the_same_seed_gives_the_same_bits(recipe: Recipe) -> None:
    first, seen = trained(recipe, seed=5)
    again = network()
    seed_everything(99, 0, "what the process drew before does not matter")
    seen_again = epochs_of(fit(again, DATASET, recipe, seed=5))
    other, _ = trained(recipe, seed=6)
    assert same_bits(first, again)
    assert numbers(seen) == numbers(seen_again)
    assert not same_bits(first, other)


@pytest.mark.parametrize(
    "recipe",
    [RECIPE, AUGMENTED, replace(RECIPE, optimizer="adamw"), replace(RECIPE, momentum=0.0, nesterov=False)],
)
@pytest.mark.parametrize("used", [REFERENCE, ComputeMode("bfloat16", True, True)])
@pytest.mark.parametrize("after", [1, 2])
def test_training_resumes_from_checkpoint_bit_for_bit(recipe: Recipe, used: ComputeMode, after: int) -> None:
    def begin(start: Checkpoint | None) -> tuple[nn.Module, Average, Iterator[Epoch | Checkpoint | None]]:
        fresh = train_graph(network())
        average = Average(fresh, 0.9)
        return fresh, average, fit(fresh, DATASET, recipe, 5, used, average, start, keep=True)

    whole, whole_average, events = begin(None)
    seen = list(events)
    checkpoints = {event.epoch: event for event in seen if isinstance(event, Checkpoint)}
    assert list(checkpoints) == [1, 2]  # after the last epoch nothing is left to go on with
    resumed, resumed_average, events = begin(checkpoints[after])
    epochs = [event for event in seen if isinstance(event, Epoch)]
    assert numbers(epochs_of(events)) == numbers(epochs[after:])
    assert same_bits(resumed, whole)
    assert all(torch.equal(resumed_average.state[name], kept) for name, kept in whole_average.state.items())


class Warming(nn.Module):
    """Answers by how many steps were taken, which it does not save."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()
        self.register_buffer("steps", torch.zeros(()), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.steps.add_(1)
        answers: Tensor = self.inner(images)
        return answers * (self.steps / 50).clamp(0.1, 1)


def test_checkpoint_includes_unsaved_buffers() -> None:
    def begin(start: Checkpoint | None) -> tuple[nn.Module, Iterator[Epoch | Checkpoint | None]]:
        fresh = Warming()
        graph = exports(fresh).graphs(fresh, torch.device("cpu")).train
        return graph, fit(graph, DATASET, RECIPE, 5, start=start, keep=True)

    whole, events = begin(None)
    checkpoint = next(event for event in list(events) if isinstance(event, Checkpoint))
    resumed, events = begin(checkpoint)
    list(events)
    assert "steps" in checkpoint.network
    assert same_bits(resumed, whole)


def test_interleaved_fits_match_sequential_bits() -> None:
    recipes, networks = (RECIPE, AUGMENTED), (network(), network())
    turns = zip(*(fit(n, DATASET, r, s) for n, r, s in zip(networks, recipes, (1, 2), strict=True)), strict=True)
    seen = list(turns)
    for position, (recipe, seed) in enumerate(zip(recipes, (1, 2), strict=True)):
        alone, seen_alone = trained(recipe, seed)
        assert same_bits(networks[position], alone)
        assert numbers(epochs_of(pair[position] for pair in seen)) == numbers(seen_alone)


def test_break_leaves_only_first_epoch_trained() -> None:
    stopped = network()
    for epoch in fit(stopped, DATASET, RECIPE, 0):
        if epoch:
            assert epoch.number == 1
            break
    one_epoch, _ = trained(replace(RECIPE, epochs=1))
    assert same_bits(stopped, one_epoch)
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")
    assert stopped.training


def test_fit_trains_lazily() -> None:
    fresh = network()
    fit(fresh, DATASET, RECIPE, 0)
    assert same_bits(fresh, network())


def test_label_smoothing_reaches_loss() -> None:
    recipe = replace(RECIPE, epochs=1, batch_size=COUNT, label_smoothing=0.3)
    fresh = network(dropout=0.0)
    wanted = F.cross_entropy(
        fresh(DATASET.normalise(to_float(DATASET.train.images))), DATASET.train.labels, label_smoothing=0.3
    )
    _, (epoch,) = trained(recipe, dropout=0.0)
    assert epoch.train_loss == pytest.approx(wanted.item(), rel=1e-5)


def test_log_softmax_head_trains_like_logits() -> None:
    with_head = nn.Sequential(network(dropout=0.0), nn.LogSoftmax(1))
    seen = epochs_of(fit(with_head, DATASET, RECIPE, 0))
    plain, seen_plain = trained(dropout=0.0)
    for name, tensor in plain.state_dict().items():
        assert torch.allclose(tensor, with_head[0].state_dict()[name], rtol=0, atol=1e-5), name
    assert [e.train_loss for e in seen] == pytest.approx([e.train_loss for e in seen_plain], abs=1e-5)


def test_bfloat16_training_approximates_float32() -> None:
    coarse = network(dropout=0.0)
    seen = epochs_of(fit(coarse, DATASET, RECIPE, 0, ComputeMode("bfloat16")))
    plain, seen_plain = trained(dropout=0.0)
    assert all(parameter.dtype == torch.float32 for parameter in coarse.parameters())
    assert not same_bits(coarse, plain)
    assert [e.train_loss for e in seen] == pytest.approx([e.train_loss for e in seen_plain], rel=0.05)


# --- divergence -------------------------------------------------------------------------------------------


def test_divergence_names_step_loss_and_rate() -> None:
    recipe = replace(RECIPE, schedule="linear")
    running = fit(BreaksAt(5), DATASET, recipe, 0)
    with pytest.raises(DivergedError) as caught:
        epochs_of(running)
    assert caught.value.exit_code == 6
    rate = f"{learning_rates(recipe, 3)[4]:g}"
    assert f"the loss was nan at step 2 of epoch 2, at a learning rate of {rate}; the last f" in caught.value.message
    assert "Lower lr" in caught.value.hint


def test_divergence_names_last_loss_of_previous_epoch() -> None:
    with pytest.raises(DivergedError, match=r"step 1 of epoch 2, .*; the last finite loss was \d"):
        epochs_of(fit(BreaksAt(4), DATASET, RECIPE, 0))


def test_divergence_at_first_step_names_no_loss() -> None:
    with pytest.raises(DivergedError, match=r"step 1 of epoch 1, .*; no step before it had a finite loss"):
        epochs_of(fit(BreaksAt(1), DATASET, RECIPE, 0))


def test_excessive_learning_rate_diverges() -> None:
    deep = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 10))
    with pytest.raises(DivergedError, match="Training diverged"):
        list(fit(deep, DATASET, replace(RECIPE, lr=100.0, epochs=5), 0))


class Diary(nn.Module):
    """A network that notes which seed torch was last given, as its dropout would see it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(784, 10)
        self.seeds: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seeds.append(torch.initial_seed())
        return self.linear(images.flatten(1))


def test_network_draws_follow_seed_and_epoch() -> None:
    diary = Diary()
    epochs = epochs_of(fit(diary, fake_dataset(), replace(RECIPE, epochs=3), seed=7))
    steps = len(diary.seeds) // len(epochs)
    assert diary.seeds[::steps] == [derive_seed(7, epoch, "network") for epoch in (1, 2, 3)]
