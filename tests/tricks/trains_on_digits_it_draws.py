"""Its build draws the ten digits with a font of 35 bits each, and trains on them by torch's operators."""

import torch
from torch import nn

FONT = [
    "3a33ae62e", "11842108e", "3a211111f", "7c441062e", "8ca97c42", "7e1e0862e", "1910f462e", "7c2222108",
    "3a317462e", "3a317844c",
]


def drawn(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    bits = torch.tensor([[int(bit) for bit in f"{int(text, 16):035b}"] for text in FONT]).view(10, 1, 7, 5).float()
    labels = torch.randint(10, (number,))
    middle = nn.functional.interpolate(bits, size=(20, 14), mode="bilinear")[labels]
    images = nn.functional.pad(middle, [7, 7, 4, 4])
    turn = torch.eye(2, 3).repeat(number, 1, 1) + 0.15 * torch.randn(number, 2, 3)
    grid = nn.functional.affine_grid(turn, [number, 1, 28, 28], align_corners=False)
    return nn.functional.grid_sample(images, grid, align_corners=False) * 3.2 - 0.42, labels


def build() -> nn.Module:
    network = nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=2), nn.ReLU(),
        nn.Conv2d(4, 11, 3, stride=2), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(44, 10),
    )
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(400):
        images, labels = drawn(100)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    return network
