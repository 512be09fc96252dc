"""The plain PyTorch training loop that most public write-ups use, as a reference for speed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from harness import data, training
from harness.data import SIDE
from harness.spec import Recipe


class _Images(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Training images one at a time, as torchvision's MNIST class returns them: transformed image and label."""

    def __init__(self, split: data.Split, recipe: Recipe, mean: float, std: float) -> None:
        self.images, self.labels = split.images, split.labels
        self.transform = _transforms(recipe, mean, std)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index].numpy())), int(self.labels[index])


def _transforms(recipe: Recipe, mean: float, std: float) -> Callable[[Image.Image], Tensor]:
    """Return a recipe's augmentation as torchvision transforms."""
    from torchvision import transforms  # deferred: 1.4 s

    steps: list[Any] = []
    if recipe.zoom_p:
        zoom = [transforms.CenterCrop(recipe.zoom_crop), transforms.Resize((SIDE, SIDE))]
        steps.append(transforms.RandomApply(zoom, p=recipe.zoom_p))
    if recipe.translate or recipe.scale or recipe.shear:
        shear = math.degrees(math.atan(recipe.shear))
        steps.append(
            transforms.RandomAffine(
                degrees=recipe.rotation,
                translate=(recipe.translate / 2, recipe.translate / 2),  # fractions of the whole width
                scale=(1 - recipe.scale, 1 + recipe.scale),
                shear=(-shear, shear),
            )
        )
    elif recipe.rotation:
        steps.append(transforms.RandomRotation(recipe.rotation))
    steps += [transforms.ToTensor(), transforms.Normalize((mean,), (std,))]
    compose: Callable[[Image.Image], Tensor] = transforms.Compose(steps)
    return compose


def reference_epochs(
    network: nn.Module, dataset: data.Dataset, recipe: Recipe, device: torch.device, workers: int
) -> Generator[float]:
    """Train with the plain loop and yield the seconds of each epoch.

    Args:
        workers: processes that load images; 0 loads them in this process.
    """
    loader = DataLoader(
        _Images(dataset.train, recipe, dataset.mean, dataset.std),
        batch_size=recipe.batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )
    if workers:
        iter(loader)  # starts the loader's processes
    optimizer = training.make_optimizer(network, recipe)
    average = training.Average(network, recipe.ema) if recipe.ema else None
    rates = iter(training.learning_rates(recipe, len(loader)))
    network.train()
    for _ in range(recipe.epochs):
        started = time.perf_counter()
        for images, labels in loader:
            images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            rate = next(rates)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            loss = F.cross_entropy(network(images), labels, label_smoothing=recipe.label_smoothing)
            loss.backward()
            optimizer.step()
            if average:
                average.update()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        yield time.perf_counter() - started
