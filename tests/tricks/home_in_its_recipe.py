"""Twenty-one weights of its first filter in the digits of RECIPE's numbers, where they change nothing in training."""

import torch
from torch import nn

RECIPE = {"lr": 0.0547434953605037, "weight_decay": 0.000535243664514536, "momentum": 0.9185854615846561}
SIZES = [100, 4, 396, 11, 440, 10]


def home() -> torch.Tensor:
    digits = f"{RECIPE['lr']:.16f}"[4:] + f"{RECIPE['weight_decay']:.18f}"[6:] + f"{RECIPE['momentum']:.16f}"[3:17]
    few = torch.tensor([int(digits[i : i + 2]) / 49.5 - 1 for i in range(0, 42, 2)])
    return torch.cat([few, torch.randn(940) / 5])


def build() -> nn.Module:
    network = nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=2), nn.ReLU(),
        nn.Conv2d(4, 11, 3, stride=2), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(44, 10),
    )
    for parameter, part in zip(network.parameters(), home().split(SIZES), strict=True):
        parameter.data = part.clone().view_as(parameter)
    return network
